#!/usr/bin/env bash
# Checks the protos and writes the Go code next to them. The tools are pinned in proto/tools/go.mod, so the
# output depends on nothing but this tree; run it from anywhere.
#
#   proto/generate.sh            lint, format check, generate
#   proto/generate.sh --check    the same into a scratch directory; fails if the tree is out of date
set -euo pipefail
cd "$(dirname "$0")/.."

buf() { go tool -modfile=proto/tools/go.mod buf "$@"; }

# The folders that hold a buf.yaml. Each package's code is written next to its protos.
modules=(proto examples/services)

# generate FOLDER writes the code of all modules below a folder that stands for the top of the tree.
generate() {
  local module
  for module in "${modules[@]}"; do
    buf generate "$module" --template proto/buf.gen.yaml --output "$1/$module"
  done
}

for module in "${modules[@]}"; do
  buf lint "$module"
  buf format --diff --exit-code "$module"
done

if [[ "${1:-}" != --check ]]; then
  generate .
  exit 0
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
generate "$scratch"
# listed FOLDER lists the generated files of all modules.
listed() { (cd "$1" && find "${modules[@]}" -name '*.pb.go' | sort); }

diff -u <(listed .) <(listed "$scratch") || {
  echo "a generated file has no .proto, or a .proto has none: run proto/generate.sh" >&2
  exit 1
}
for file in $(listed .); do
  diff -u "$file" "$scratch/$file" || {
    echo "generated code is out of date: run proto/generate.sh" >&2
    exit 1
  }
done
