'use strict';
// Everything that comes from the mesh is put in by textContent or setAttribute: names are other people's.
const $ = id => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';
const svg = (name, attributes = {}, ...children) => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};
const make = (name, text, cls) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (cls) element.className = cls;
  return element;
};

// ---- What the proxy says
const KEEP = 60;  // seconds of history
const pairs = new Map(), ids = new Map();  // by who, whom, what, how; by the proxy's number
const history = {opened: [], open: [], bytes: [], failed: []};
const latencies = new Map();
let sample = null, events = [], lastTime = 0, gaps = 0, paused = false, found = '', sorted = {key: 'rate', down: true};
let failures = [];  // times of ends that failed

const keyOf = p => [p.sn, p.s, p.dn, p.d, p.svc, p.path].join('|');
const total = f => Object.values(f || {}).reduce((a, b) => a + b, 0);

function takePair(p, seconds) {
  const key = keyOf(p);
  let pair = pairs.get(key);
  if (!pair) pairs.set(key, pair = {key, sn: p.sn, s: p.s, si: p.si, dn: p.dn, d: p.d, di: p.di, svc: p.svc, path: p.path, by: new Map(), sides: {}, failedAt: 0});
  const before = pair.by.get(p.id);
  pair.si ||= p.si;
  pair.di ||= p.di;
  const now = {r: p.r, o: p.o, c: p.c, tx: p.tx, rx: p.rx, f: p.f || {}, rate: 0, txr: 0, rxr: 0, fresh: true};
  if (before && seconds > 0) {
    now.rate = (p.o - before.o) / seconds;
    now.txr = (p.tx - before.tx) / seconds;
    now.rxr = (p.rx - before.rx) / seconds;
    if (total(p.f) > total(before.f)) pair.failedAt = Date.now();
  } else if (!before && seconds > 0) {  // new since the page was opened
    now.rate = p.o / seconds;
    if (total(p.f) > 0) pair.failedAt = Date.now();
  }
  pair.by.set(p.id, now);
}

// A pair of this node is told by both of its ends: the client's counts, unless only the server's side said why it failed.
function settle(pair) {
  const sum = {source: null, destination: null};
  for (const one of pair.by.values()) {
    const s = sum[one.r] ||= {o: 0, c: 0, tx: 0, rx: 0, rate: 0, txr: 0, rxr: 0, f: {}};
    for (const name of ['o', 'c', 'tx', 'rx']) s[name] += one[name];
    if (one.fresh) for (const name of ['rate', 'txr', 'rxr']) s[name] += one[name];
    for (const [flag, n] of Object.entries(one.f)) s.f[flag] = (s.f[flag] || 0) + n;
  }
  const shown = sum.source || sum.destination;
  pair.fromHere = !!sum.source;
  pair.toHere = !!sum.destination;
  Object.assign(pair, shown, {open: shown.o - shown.c});
  if (sum.destination && sum.destination.f.DENY) pair.f = sum.destination.f;
}

function onSample(data) {
  const seconds = lastTime ? (data.t - lastTime) / 1000 : 0;
  lastTime = data.t;
  if (data.all) { pairs.clear(); }
  for (const pair of pairs.values()) for (const one of pair.by.values()) one.fresh = false;
  for (const p of data.pairs) takePair(p, data.all ? 0 : seconds);
  for (const pair of pairs.values()) settle(pair);
  sample = data;
  const all = [...pairs.values()], sum = f => all.reduce((a, p) => a + f(p), 0);
  const push = (name, value) => { history[name].push(value); if (history[name].length > KEEP) history[name].shift(); };
  push('opened', sum(p => p.rate));
  push('open', data.connections);
  push('bytes', sum(p => p.txr + p.rxr));
  const minute = Date.now() - 1000;
  push('failed', failures.filter(t => t > minute).length);
  failures = failures.filter(t => t > Date.now() - 60000);
  for (const h of data.latency) {
    const key = h.name + (h.labels ? ' ' + h.labels.replace(/\w+="([^"]*)"/g, '$1').replace(/,/g, ' ') : '');
    const old = latencies.get(key) || [];
    old.push(h);
    if (old.length > KEEP) old.shift();
    latencies.set(key, old);
  }
  if (!paused) draw();
}

function onConnection(data) {
  data.bad = data.kind === 'refused' || !!data.error;
  if (data.bad) failures.push(Date.now());
  events.unshift(data);
  if (events.length > 500) events.length = 500;
}

// ---- Words
const bytes = n => { const u = ['B', 'KiB', 'MiB', 'GiB', 'TiB']; let i = 0; while (n >= 1024 && i < 4) { n /= 1024; ++i; } return (i && n < 100 ? n.toFixed(1) : Math.round(n)) + ' ' + u[i]; };
const rate = n => n === 0 ? '0' : n < 10 ? n.toFixed(1) : Math.round(n).toString();
const time = s => s === null ? '–' : s < 0.001 ? Math.round(s * 1e6) + ' µs' : s < 1 ? (s * 1000).toFixed(s < 0.01 ? 1 : 0) + ' ms' : s.toFixed(1) + ' s';
const place = (ns, name) => name ? (ns ? ns + '/' : '') + name : 'unknown';
const PATHS = {hbone: 'HBONE', local: 'local', plain: 'plain', hidden: 'not told'};
const FLAGS = {
  DENY: ['a policy refused it', 'Look at the policies of the destination: an event below names the one that decided, and "ztunnel explain" says why each other did not let it in.'],
  CONNECT: ['the connection could not be made, or broke', 'Is the application listening on that port? Does the other proxy answer on 15008? The error of a single connection says which.'],
  TLS_FAILURE: ['TLS could not be set up here', 'A certificate or a key does not fit: see the certificates in the table of pods, and the log.'],
  H2_HANDSHAKE_FAILURE: ['the peer does not speak HTTP/2 as expected', 'Is it a proxy of this mesh that listens on 15008?'],
  NETWORK_POLICY: ['nobody answered on port 15008', 'A NetworkPolicy or a firewall may block port 15008 between the two nodes: allow it.'],
  IDENTITY_ERROR: ['no certificate for the calling workload', 'Does the control plane answer? zt_certificate_fetches_total and the log of scope "identity" say why it gave none.'],
  CERT_REVOKED: ['a revocation list names the certificate', 'The peer needs a new certificate, or the list is wrong.'],
};

function quantile(list, q) {
  const last = list[list.length - 1], first = list.length > 1 ? list[0] : null;
  const counts = last.n.map((n, i) => n - (first ? first.n[i] : 0));
  const all = counts.reduce((a, b) => a + b, 0);
  if (all === 0) return null;
  let want = q * all, seen = 0;
  for (let i = 0; i < counts.length; ++i) {
    if (seen + counts[i] >= want) {
      if (i >= last.le.length) return last.le[last.le.length - 1];
      const low = i ? last.le[i - 1] : 0;
      return low + (last.le[i] - low) * (want - seen) / counts[i];
    }
    seen += counts[i];
  }
  return null;
}
const observed = list => { const last = list[list.length - 1].n, first = list.length > 1 ? list[0].n : null; return last.reduce((a, n, i) => a + n - (first ? first[i] : 0), 0); };

// ---- Drawing
function spark(values) {
  const most = Math.max(1e-9, ...values), step = 100 / (KEEP - 1);
  const points = values.map((v, i) => `${(i * step).toFixed(1)},${(27 - 25 * v / most).toFixed(1)}`).join(' ');
  return svg('svg', {class: 'spark', viewBox: '0 0 100 28', preserveAspectRatio: 'none', 'aria-hidden': 'true'}, svg('polyline', {points}));
}

function drawTiles() {
  const firstByte = ['first byte source', 'first byte destination'].map(k => latencies.get(k)).find(l => l && observed(l) > 0);
  const tiles = [
    ['connections opened a second', rate(history.opened.at(-1)), history.opened],
    ['open connections', sample.connections, history.open],
    ['bytes a second', bytes(history.bytes.at(-1)), history.bytes],
    ['failed or refused in the last minute', failures.length, history.failed],
    ['tunnels, as client and as server', `${sample.clientTunnels} · ${sample.serverTunnels}`],
    ['memory held of its budget', `${bytes(sample.memory)} of ${bytes(sample.memoryLimit)}`],
    ['first byte, p50 and p99', firstByte ? `${time(quantile(firstByte, .5))} · ${time(quantile(firstByte, .99))}` : '–'],
    ['workloads, services, policies known', `${sample.workloads} · ${sample.services} · ${sample.policies}`],
  ];
  $('tiles').replaceChildren(...tiles.map(([name, value, values]) => {
    const tile = make('li');
    tile.append(make('b', value), make('span', name, 'quiet'));
    if (values) tile.append(spark(values));
    return tile;
  }));
  const recent = failures.filter(t => t > Date.now() - 10000).length;
  const words = recent ? `${recent} connection${recent > 1 ? 's' : ''} failed or refused in the last ten seconds` : '';
  if ($('announce').textContent !== words) $('announce').textContent = words;
}

const bad = pair => pair.failedAt > Date.now() - 60000;
const matches = (...texts) => !found || texts.some(t => t && t.toLowerCase().includes(found));
const pairMatches = p => matches(place(p.sn, p.s), place(p.dn, p.d), p.svc, p.path, p.si, p.di);
const name = p => `${place(p.sn, p.s)} to ${place(p.dn, p.d)}${p.svc ? ' (' + p.svc + ')' : ''}, ${PATHS[p.path]}${bad(p) ? ', failed or denied in the last minute' : ''}`;

// Three columns: who calls from elsewhere, pods of this node, who is called elsewhere. Nothing moves that need not.
function drawMap() {
  const nodes = new Map();
  const node = (ns, n, here, side) => {
    const key = n ? place(ns, n) : `unknown ${side}`;
    const known = nodes.get(key) || nodes.set(key, {key, ns: ns || '', name: n || (side === 'caller' ? 'callers outside the mesh' : 'outside the mesh'), here: false, out: 0, in: 0}).get(key);
    known.here ||= here;
    return known;
  };
  const shown = [...pairs.values()].filter(pairMatches).sort((a, b) => b.o - a.o).slice(0, 60);
  for (const pod of sample.pods) if (matches(place(pod.ns, pod.name))) {
    const owner = [...pairs.values()].find(p => (p.fromHere && p.sn === pod.ns && pod.name.startsWith(p.s)) || (p.toHere && p.dn === pod.ns && pod.name.startsWith(p.d)));
    if (!owner) node(pod.ns, pod.name, true);
  }
  const edges = shown.map(p => {
    const from = node(p.sn, p.s, p.fromHere, 'caller'), to = node(p.dn, p.d, p.toHere, 'called');
    ++from.out; ++to.in;
    return {p, from, to};
  });
  const columns = [[], [], []];
  for (const n of nodes.values()) columns[n.here ? 1 : n.out >= n.in ? 0 : 2].push(n);
  const H = 54, W = 200, X = [10, 400, 790];
  const most = Math.max(1, ...columns.map(c => c.length));
  columns.forEach((list, c) => {
    list.sort((a, b) => a.key.localeCompare(b.key));
    list.forEach((n, i) => { n.x = X[c]; n.y = 10 + (most - list.length) * H / 2 + i * H; n.c = c; });
  });
  const height = most * H + 20;
  const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.key : null;
  const picture = svg('svg', {viewBox: `0 0 1000 ${height}`, role: 'group', 'aria-label': `${nodes.size} workloads, ${edges.length} pairs`});
  for (const {p, from, to} of edges) {
    const right = from.x < to.x, same = from.c === to.c;
    const x1 = from.x + (right || same ? W : 0), x2 = to.x + (same ? W : right ? 0 : W), y1 = from.y + 20, y2 = to.y + 20;
    const bend = same ? 70 : (x2 - x1) / 2;
    const d = `M${x1},${y1} C${x1 + bend},${y1} ${same ? x2 + bend : x2 - bend},${y2} ${x2},${y2}`;
    const width = 1.5 + Math.min(4, Math.log10(1 + p.txr + p.rxr + p.rate * 100));
    const edge = svg('g', {class: `edge ${bad(p) ? 'denied' : p.path}${p.path === 'plain' ? ' plain' : ''}`, tabindex: 0, role: 'button', 'aria-label': name(p), 'data-key': p.key},
      svg('path', {class: 'hit', d}), svg('path', {class: 'seen', d, 'stroke-width': width.toFixed(1)}), svg('title', {}, document.createTextNode(name(p))));
    edge.addEventListener('click', () => explainPair(p));
    edge.addEventListener('keydown', e => { if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); explainPair(p); } });
    picture.append(edge);
  }
  for (const n of nodes.values()) {
    picture.append(svg('g', {class: n.here ? 'here' : ''}, svg('rect', {x: n.x, y: n.y, width: W, height: 40, rx: 7}),
      svg('text', {x: n.x + 10, y: n.y + 18}, document.createTextNode(n.name.length > 26 ? n.name.slice(0, 25) + '…' : n.name)),
      svg('text', {class: 'ns', x: n.x + 10, y: n.y + 33}, document.createTextNode(n.ns))));
  }
  $('map').replaceChildren(nodes.size ? picture : make('p', found ? 'Nothing here has that name.' : 'No pod is in the mesh on this node yet.', 'quiet'));
  if (focused) { const again = [...picture.querySelectorAll('.edge')].find(e => e.dataset.key === focused); if (again) again.focus(); }
}

function table(id, columns, rows, none) {
  const t = $(id);
  if (!t.tHead.rows.length) {
    const head = t.tHead.insertRow();
    for (const c of columns) {
      const th = make('th', undefined, c.n ? 'n' : '');
      th.scope = 'col';
      if (c.sort) {
        const button = make('button', c.title);
        button.addEventListener('click', () => { sorted = {key: c.sort, down: sorted.key === c.sort ? !sorted.down : true}; draw(); });
        th.append(button);
        th.dataset.sort = c.sort;
      } else th.textContent = c.title;
      head.append(th);
    }
  }
  for (const th of t.tHead.rows[0].cells) if (th.dataset.sort) th.setAttribute('aria-sort', th.dataset.sort === sorted.key ? (sorted.down ? 'descending' : 'ascending') : 'none');
  const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.row : null;
  t.tBodies[0].replaceChildren(...rows.map(({cells, open, key}) => {
    const tr = make('tr');
    cells.forEach((cell, i) => {
      const td = make('td', undefined, columns[i].n ? 'n' : '');
      if (cell instanceof Node) td.append(cell); else td.textContent = cell;
      tr.append(td);
    });
    if (open) {
      tr.tabIndex = 0;
      tr.dataset.row = key;
      tr.addEventListener('click', open);
      tr.addEventListener('keydown', e => { if (e.key === 'Enter') open(); });
    }
    return tr;
  }));
  if (!rows.length) { const td = make('td', none, 'none'); const tr = make('tr'); td.colSpan = columns.length; tr.append(td); t.tBodies[0].append(tr); }
  if (focused) { const again = [...t.tBodies[0].rows].find(r => r.dataset.row === focused); if (again) again.focus(); }
}

function drawPairs() {
  const columns = [{title: 'From', sort: 's'}, {title: 'To', sort: 'd'}, {title: 'Service', sort: 'svc'}, {title: 'Over', sort: 'path'}, {title: 'Opened/s', sort: 'rate', n: 1},
    {title: 'Open', sort: 'open', n: 1}, {title: 'Sent/s', sort: 'txr', n: 1}, {title: 'Received/s', sort: 'rxr', n: 1}, {title: 'All opened', sort: 'o', n: 1}, {title: 'Failed', sort: 'failed', n: 1}];
  const list = [...pairs.values()].filter(pairMatches);
  const value = p => sorted.key === 'failed' ? total(p.f) : sorted.key === 's' ? place(p.sn, p.s) : sorted.key === 'd' ? place(p.dn, p.d) : p[sorted.key] ?? '';
  list.sort((a, b) => { const x = value(a), y = value(b), c = x < y ? -1 : x > y ? 1 : b.o - a.o; return sorted.down && typeof x === 'number' ? -c || 0 : sorted.down ? c : typeof x === 'number' ? c : -c; });
  table('pairs', columns, list.slice(0, 200).map(p => ({key: p.key, open: () => explainPair(p), cells: [place(p.sn, p.s), place(p.dn, p.d), p.svc || '–',
    make('span', bad(p) ? PATHS[p.path] + ', failed' : PATHS[p.path], 'k ' + (bad(p) ? 'denied' : p.path)), rate(p.rate), p.open, bytes(p.txr), bytes(p.rxr), p.o,
    total(p.f) ? Object.entries(p.f).map(([f, n]) => `${f} ${n}`).join(', ') : '0']})), found ? 'No pair matches.' : 'Nobody has talked yet.');
}

function drawPods() {
  const identities = new Map(sample.certificates.map(c => [c.identity, c.expires]));
  const rows = sample.pods.filter(p => matches(place(p.ns, p.name), p.sa, p.uid)).map(p => {
    const found = [...identities].find(([id]) => id.endsWith(`/ns/${p.ns}/sa/${p.sa}`));
    let left = '–';
    if (found) { const hours = (found[1] - sample.t) / 3.6e6; left = make('span', hours < 0 ? 'expired' : hours < 48 ? `${hours.toFixed(1)} h left` : `${(hours / 24).toFixed(1)} days left`, hours < 1 ? 'denied' : ''); left.title = found[0]; }
    const memory = make('span');
    const meter = make('meter'); meter.max = sample.memoryLimit; meter.value = p.memory; meter.setAttribute('aria-label', 'share of the memory budget');
    memory.append(meter, ' ' + bytes(p.memory));
    return {cells: [place(p.ns, p.name), p.sa || '–', p.connections, p.tunnels, memory, left]};
  });
  table('pods', [{title: 'Pod'}, {title: 'Service account'}, {title: 'Connections', n: 1}, {title: 'Tunnels of peers', n: 1}, {title: 'Memory held'}, {title: 'Certificate'}], rows, 'No pod is in the mesh on this node yet.');
}

function drawLatency() {
  const rows = [...latencies].map(([key, list]) => ({key, list, n: observed(list)})).filter(x => x.n > 0).map(({key, list, n}) => {
    const trend = list.map((h, i) => i ? quantile(list.slice(Math.max(0, i - 5), i + 1), .99) || 0 : 0);
    return {cells: [key, n, time(quantile(list, .5)), time(quantile(list, .9)), time(quantile(list, .99)), spark(trend)]};
  });
  table('latency', [{title: 'What'}, {title: 'How often', n: 1}, {title: 'p50', n: 1}, {title: 'p90', n: 1}, {title: 'p99', n: 1}, {title: 'p99, last minute'}], rows, 'Nothing was measured yet.');
}

function drawEvents() {
  const list = events.filter(e => (!$('only-failed').checked || e.bad) && matches(place(e.sn, e.s), place(e.dn, e.d), e.svc, e.src, e.dst, e.error, e.reason)).slice(0, 50);
  table('events', [{title: 'Time'}, {title: 'What'}, {title: 'From'}, {title: 'To'}, {title: 'Over'}, {title: 'Sent', n: 1}, {title: 'Received', n: 1}, {title: 'Took', n: 1}, {title: 'Why'}],
    list.map(e => ({key: e.t + e.src + e.kind + e.dir, open: () => explainEvent(e), cells: [new Date(e.t).toLocaleTimeString(), make('span', `${e.kind} (${e.dir})`, e.bad ? 'denied' : ''), e.s ? `${place(e.sn, e.s)} ${e.src}` : e.src, e.d ? `${place(e.dn, e.d)} ${e.dst}` : e.dst,
      make('span', PATHS[e.path], 'k ' + e.path), e.kind === 'closed' ? bytes(e.tx) : '', e.kind === 'closed' ? bytes(e.rx) : '', e.kind === 'closed' ? time(e.ms / 1000) : '', e.error || (e.reason === 'ok' ? '' : e.reason || '')]})),
    'Nothing opened or ended since this page was opened.');
}

function draw() {
  if (!sample) return;
  $('node').textContent = [sample.node, sample.version].filter(Boolean).join(' · ');
  const troubles = [];
  if (sample.agent === false && sample.pods.length === 0) troubles.push('the node agent is not connected');
  if (sample.xds === false) troubles.push('the control plane does not answer');
  if (sample.longestTurn > 0.1) troubles.push(`a worker was busy for ${time(sample.longestTurn)}`);
  if (gaps) troubles.push(`${gaps} events were too many to show`);
  $('state').textContent = troubles.length ? troubles.join(' · ') : 'live';
  $('state').classList.toggle('bad', troubles.length > 0);
  drawTiles(); drawMap(); drawPairs(); drawPods(); drawLatency(); drawEvents();
}

// ---- A click explains
function show(title, ...parts) {
  $('details-title').textContent = title;
  $('details-body').replaceChildren(...parts);
  if (!$('details').open) $('details').showModal();
}
function facts(list) {
  const dl = make('dl');
  for (const [key, value] of list) if (value !== undefined && value !== '') dl.append(make('dt', key), make('dd', String(value)));
  return dl;
}
const HOW = {
  hbone: 'Over HBONE: both ends proved who they are by certificates (mutual TLS), and the bytes are encrypted between the two nodes.',
  local: 'Locally: both pods are on this node, so the bytes went from one to the other without a tunnel. The same policies were asked.',
  plain: 'Plain: at least one end is not in the mesh, so nobody proved who it is and nothing was encrypted by us.',
  hidden: 'Over what is not told: the settings leave the label connection_security_policy out.',
};
async function ask(source, destination, out) {
  try {
    const answer = await fetch(`explain?source=${encodeURIComponent(source)}&destination=${encodeURIComponent(destination)}`);
    out.replaceChildren(make('h3', answer.ok ? 'What the proxy would do now' : 'The proxy cannot say'), make('pre', (await answer.text()).trim()));
  } catch (error) { out.replaceChildren(make('p', 'The proxy does not answer.')); }
}
function explainPair(p) {
  const parts = [make('p', HOW[p.path]), facts([['from', place(p.sn, p.s)], ['who proved to be', p.si], ['to', place(p.dn, p.d)], ['expected to be', p.path === 'plain' ? '' : p.di], ['service', p.svc],
    ['opened', p.o], ['open now', p.open], ['sent', bytes(p.tx)], ['received', bytes(p.rx)]])];
  for (const [flag, n] of Object.entries(p.f)) {
    const [what, remedy] = FLAGS[flag] || [flag, ''];
    parts.push(make('p', `${n} × ${flag}: ${what}. ${remedy}`, 'denied'));
  }
  const last = events.find(e => keyOf(e) === p.key && e.error) || events.find(e => keyOf(e) === p.key);
  if (last) parts.push(...eventParts(last)); else parts.push(make('p', 'No single connection of this pair was seen since this page was opened.', 'quiet'));
  show(name(p), ...parts);
}
function eventParts(e) {
  const out = make('div');
  const parts = [facts([['latest', `${e.kind} at ${new Date(e.t).toLocaleTimeString()}`], ['addresses', `${e.src} → ${e.dst}`], ['reason', e.reason], ['error', e.error], ['took', e.ms === undefined ? '' : time(e.ms / 1000)]]), out];
  const source = e.src.replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
  ask(source, e.dst, out);
  return parts;
}
function explainEvent(e) {
  const [what, remedy] = FLAGS[e.flag] || [];
  show(`${e.s ? place(e.sn, e.s) : e.src} to ${e.d ? place(e.dn, e.d) : e.dst}`, make('p', HOW[e.path]),
    ...(what ? [make('p', `${e.flag}: ${what}. ${remedy}`, 'denied')] : []),
    facts([['service', e.svc], ['who proved to be', e.si], ['expected to be', e.di]]), ...eventParts(e));
}

// ---- Controls
$('search').addEventListener('input', () => { found = $('search').value.trim().toLowerCase(); draw(); });
$('only-failed').addEventListener('change', draw);
$('pause').addEventListener('click', () => { paused = !paused; $('pause').setAttribute('aria-pressed', paused); $('pause').textContent = paused ? 'Go on' : 'Pause'; if (!paused) draw(); });
const THEMES = ['system', 'light', 'dark'];
function theme(which) {
  if (which === 'system') delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = which;
  $('theme').textContent = 'Theme: ' + which;
  try { localStorage.setItem('theme', which); } catch (error) { /* not stored, then */ }
}
$('theme').addEventListener('click', () => theme(THEMES[(THEMES.indexOf($('theme').textContent.slice(7)) + 1) % 3]));
try { theme(THEMES.includes(localStorage.getItem('theme')) ? localStorage.getItem('theme') : 'system'); } catch (error) { /* as the system has it */ }
document.addEventListener('keydown', e => { if (e.key === '/' && !/INPUT/.test(document.activeElement.tagName)) { e.preventDefault(); $('search').focus(); } });

const source = new EventSource('live');
source.addEventListener('sample', e => onSample(JSON.parse(e.data)));
source.addEventListener('connection', e => onConnection(JSON.parse(e.data)));
source.addEventListener('gap', e => { gaps += Number(e.data); });
source.addEventListener('open', () => { lastTime = 0; });
source.addEventListener('error', () => { $('state').textContent = 'the proxy does not answer; trying again'; $('state').classList.add('bad'); });
