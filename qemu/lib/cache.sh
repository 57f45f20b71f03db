# Sourced by the programs of this directory: where things are kept, and how they speak.

cache="${UDMABRIDGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/udmabridge}"
qemu_dir="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
repo_dir="$(dirname "$qemu_dir")"

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }
