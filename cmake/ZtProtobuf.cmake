find_package(Protobuf REQUIRED)

# zt_protobuf(name PROTOS …): a static library zt_<name> of the messages in the .proto files given (paths from the root of
# the sources). Users include what is generated under the same path: "workload_api/xds/proto/workload.pb.h". The code is
# compiled once and without our warnings. LITE: they need only libprotobuf-lite, which is a part of libprotobuf and must not be
# beside it in one program: who links the messages says which (protobuf::libprotobuf-lite or protobuf::libprotobuf).
function(zt_protobuf name)
  cmake_parse_arguments(A "LITE" "" "PROTOS" ${ARGN})
  set(out ${CMAKE_BINARY_DIR}/generated)
  set(sources "")
  foreach(proto ${A_PROTOS})
    string(REGEX REPLACE "\\.proto$" "" stem ${proto})
    add_custom_command(
      OUTPUT ${out}/${stem}.pb.cc ${out}/${stem}.pb.h
      COMMAND ${CMAKE_COMMAND} -E make_directory ${out}
      COMMAND protobuf::protoc --proto_path=${CMAKE_SOURCE_DIR} --cpp_out=${out} ${CMAKE_SOURCE_DIR}/${proto}
      DEPENDS ${CMAKE_SOURCE_DIR}/${proto}
      COMMENT "protoc ${proto}" VERBATIM)
    list(APPEND sources ${out}/${stem}.pb.cc)
  endforeach()
  add_library(zt_${name} STATIC ${sources})
  target_include_directories(zt_${name} SYSTEM PUBLIC ${out})
  if(A_LITE)
    target_include_directories(zt_${name} SYSTEM PUBLIC ${Protobuf_INCLUDE_DIRS})
  else()
    target_link_libraries(zt_${name} PUBLIC protobuf::libprotobuf)
  endif()
endfunction()
