# What the scripts here need of the system, installed if it is missing. Read by the others; does nothing by itself.

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
    echo "needed, and only root can: $*" >&2
    return 1
  fi
}

# need_package COMMAND PACKAGE...: installs the packages if the command is not there
need_package() {
  command -v "$1" >/dev/null && return 0
  shift
  install_packages "$@"
}

install_packages() {
  command -v apt-get >/dev/null || { echo "please install: $*" >&2; return 1; }
  echo "installing $*"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

need_build_tools() {
  if ! command -v cargo >/dev/null && [ -r "$HOME/.cargo/env" ]; then . "$HOME/.cargo/env"; fi
  command -v cargo >/dev/null || { echo "please install Rust 1.95 or newer first: https://rustup.rs" >&2; return 2; }
  need_package cc build-essential
}

need_fuse() {
  if [ ! -e /dev/fuse ]; then as_root modprobe fuse 2>/dev/null || true; fi
  [ -e /dev/fuse ] || { echo "there is no /dev/fuse here: this kernel or container cannot mount" >&2; return 8; }
  # root mounts by itself; everybody else needs the helper
  if [ "$(id -u)" != 0 ]; then need_package fusermount3 fuse3; fi
}
