# Source this from bash: the virtual environment, ROS 2 from its wheels and, once built, this package. ROS_DISTRO
# chooses kilted (the default) or jazzy.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/tools/ros_distro.bash" || return 1
for other in .venv .venv-jazzy; do
  if [ "$other" != "$venv" ] && [[ ":${AMENT_PREFIX_PATH:-}:" == *":$root/$other:"* ]]; then
    echo "This shell has $other already, and two distributions do not mix: take a new shell for $ROS_DISTRO." >&2
    return 1
  fi
done
export ROS_DISTRO
export VIRTUAL_ENV="$root/$venv"
export PATH="$VIRTUAL_ENV/bin:$PATH"
export AMENT_PREFIX_PATH="$VIRTUAL_ENV${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}"
export CMAKE_PREFIX_PATH="$VIRTUAL_ENV${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}"
if [ -f "$root/$install_base/setup.bash" ]; then
  source "$root/$install_base/setup.bash"
fi
unset root venv install_base other
