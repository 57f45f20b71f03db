# Sourced by bare and bare-package: the smallest root of a release of Debian, by debootstrap.

declare -A suites=([11]=bullseye [12]=bookworm [13]=trixie)

need_debootstrap() {
    type -P debootstrap >/dev/null || {
        say "installing debootstrap"
        apt-get -q update >&2 && DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends debootstrap >&2
    }
}

# An archive's address as this machine's apt has it; only the suite is another one.
address() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Label: $1" 'Component: main' | head -n 1
}

# has_suite ADDRESS SUITE: is it in that archive, or has it moved?
has_suite() {
    local file
    file="$(mktemp)"
    /usr/lib/apt/apt-helper -q -o APT::Sandbox::User="$(id -un)" download-file "${1%/}/dists/$2/InRelease" "$file" >/dev/null 2>&1 \
        && rm "$file" || { rm -f "$file"; return 1; }
}

# make_root SUITE DIRECTORY: anew, with how this machine reaches its archives.
make_root() {
    local suite="$1" root="$2" archive security
    archive="$(address Debian)" security="$(address Debian-Security)"
    [[ "$archive" ]] || die "this machine's apt knows no Debian archive (run apt-get update)"
    say "debootstrap $suite into $root"
    rm -rf "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase "$suite" "$root" "$archive" >"$root.log" 2>&1 \
        || die "debootstrap failed: $(tail -n 3 "$root.log")"
    {
        printf 'deb %s %s main\n' "$archive" "$suite" "$archive" "$suite-updates"
        [[ -z "$security" ]] || printf 'deb %s %s main\n' "$security" "$suite-security"
    } >"$root/etc/apt/sources.list"
    # Proxies, certificates and the like.
    apt-config dump | grep -E '^Acquire::(Check-|http|ftp|Retries|ForceIPv)' >"$root/etc/apt/apt.conf.d/10machine" || true
}
