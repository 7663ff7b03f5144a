#!/usr/bin/env bash
# Checks the protos and writes the Go code next to them. The tools are pinned in proto/tools/go.mod, so the
# output depends on nothing but this tree; run it from anywhere.
#
#   proto/generate.sh            lint, format check, generate
#   proto/generate.sh --check    the same into a scratch directory; fails if the tree is out of date
set -euo pipefail
cd "$(dirname "$0")/.."

buf() { go tool -modfile=proto/tools/go.mod buf "$@"; }

buf lint proto
buf format --diff --exit-code proto

if [[ "${1:-}" != --check ]]; then
  buf generate proto --template proto/buf.gen.yaml
  exit 0
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
buf generate proto --template proto/buf.gen.yaml --output "$scratch"
for file in proto/gavel/v1/*.pb.go; do
  [[ -e "$scratch/$file" ]] || { echo "$file: no .proto makes it" >&2; exit 1; }
done
for file in "$scratch"/proto/gavel/v1/*.pb.go; do
  diff -u "proto/gavel/v1/$(basename "$file")" "$file" || {
    echo "generated code is out of date: run proto/generate.sh" >&2
    exit 1
  }
done
