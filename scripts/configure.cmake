# Executables, which run under the interpreter that the package was built for: a virtual environment's or the system's.
# Their first lines are read by sh, and then by Python as a string: the kernel itself takes no interpreter whose path has a
# space or more than 127 bytes.
set(executables demo ovseg segment_node tabletop_camera)
string(REPLACE "'" "'\"'\"'" python_for_sh "${Python3_EXECUTABLE}")
foreach(executable ${executables})
  configure_file(${CMAKE_CURRENT_LIST_DIR}/${executable}.in ${CMAKE_CURRENT_BINARY_DIR}/scripts/${executable} @ONLY)
endforeach()
