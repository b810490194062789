# Warnings, sanitizers, linker: what every target of ours shares.
option(ZT_BUILD_TESTS "Build the tests" ON)
option(ZT_WERROR "Treat warnings as errors" OFF)
option(ZT_FUZZ "Build the libFuzzer targets" OFF)
set(ZT_SANITIZE "" CACHE STRING "Sanitizers, as for -fsanitize= (address,undefined or thread)")

add_library(zt_options INTERFACE)
target_include_directories(zt_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(zt_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Wimplicit-fallthrough>
  $<$<BOOL:${ZT_WERROR}>:-Werror>)
if(ZT_SANITIZE)
  add_compile_options(-fsanitize=${ZT_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${ZT_SANITIZE})
  if(ZT_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize=function,vptr -fno-sanitize-recover=undefined)
  endif()
endif()
if(ZT_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
  add_link_options(-fsanitize=fuzzer-no-link)
endif()
# Everything is bound at the start and then read-only. Lazy binding would also leave copies of the vector registers, and the keys in them, on the stack.
add_link_options(LINKER:-z,relro LINKER:-z,now LINKER:-z,noexecstack)
find_program(ZT_LLD ld.lld-19)
if(ZT_LLD)
  add_link_options(-fuse-ld=lld-19)
endif()
