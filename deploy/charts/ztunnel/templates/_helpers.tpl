{{- define "ztunnel.name" }}{{ .Values.resourceName | default "ztunnel" }}{{ end -}}
{{- define "ztunnel.labels" -}}
app: ztunnel
app.kubernetes.io/name: ztunnel
app.kubernetes.io/part-of: istio
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}
{{- define "ztunnel.metadata" -}}
name: {{ include "ztunnel.name" . }}
labels:
  {{- include "ztunnel.labels" . | nindent 2 }}
  {{- with .Values.labels }}{{ toYaml . | nindent 2 }}{{ end }}
{{- if or .Values.revision .Values.annotations }}
annotations:
  {{- with .Values.revision }}
  istio.io/rev: {{ . | quote }}
  {{- end }}
  {{- with .Values.annotations }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}
{{- end -}}
{{- define "ztunnel.istiod" -}}istiod{{ with .Values.revision }}-{{ . }}{{ end }}.{{ .Values.istioNamespace }}.svc:15012{{- end -}}
