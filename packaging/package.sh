# Sourced by deb and dist, in the repository: what a package says of itself.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# The one place that has the version.
version="$(sed -n 's/.*programVersion = "\(.*\)"$/\1/p' Sources/Programs/Version.swift)"
[[ "$version" ]] || die "Sources/Programs/Version.swift names no version"
# When the last commit was made: a package is the same however often it is made.
SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)"
export SOURCE_DATE_EPOCH
umask 022
