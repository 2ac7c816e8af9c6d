# The static supervisor program, embedded into espalier_envs: no path to it has to exist at run time.
enable_language(ASM)
file(GLOB init_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/envs/sandbox/init/*.cc)
add_executable(espalier_init ${init_sources})
target_include_directories(espalier_init PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
# Its own options: sanitizers' run times cannot be linked statically, and it uses no exceptions.
set_target_properties(espalier_init PROPERTIES
  COMPILE_OPTIONS "-O2;-fno-exceptions;-fno-rtti;-fno-stack-protector;-fno-pie;-Wall;-Wextra;-Wpedantic;-Wno-unused-parameter"
  LINK_OPTIONS "-static;-no-pie;-s" POSITION_INDEPENDENT_CODE OFF
  BUILD_RPATH "" SKIP_BUILD_RPATH ON RUNTIME_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/generated)
set(init_program ${CMAKE_CURRENT_BINARY_DIR}/generated/espalier_init)
set(init_blob ${CMAKE_CURRENT_BINARY_DIR}/generated/init_blob.S)
file(WRITE ${init_blob} ".section .rodata
.global espalier_init_begin
.global espalier_init_end
.balign 16
espalier_init_begin:
.incbin \"${init_program}\"
espalier_init_end:
.byte 0
.section .note.GNU-stack,\"\",%progbits
")
set_source_files_properties(${init_blob} PROPERTIES GENERATED TRUE LANGUAGE ASM
  OBJECT_DEPENDS ${init_program})
add_library(espalier_init_blob STATIC ${init_blob})
set_target_properties(espalier_init_blob PROPERTIES COMPILE_OPTIONS "" LINKER_LANGUAGE C)
add_dependencies(espalier_init_blob espalier_init)
target_link_libraries(espalier_envs PRIVATE espalier_init_blob)
