# Sourced by the scripts beside it: the ROS 2 from wheels that ROS_DISTRO chooses, and where it lies under the root.
ROS_DISTRO="${ROS_DISTRO:-kilted}"
case "$ROS_DISTRO" in
  kilted) venv=.venv install_base=install ;;
  jazzy) venv=.venv-jazzy install_base=install/jazzy ;;
  *)
    echo "ROS_DISTRO=$ROS_DISTRO: there are wheels of kilted (the default) and jazzy only. Choose one, for example" \
      "'make test ROS_DISTRO=jazzy'; with a ROS 2 from apt, use colcon as README.md says." >&2
    return 1
    ;;
esac
