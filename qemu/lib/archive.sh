# Sourced by setup: Debian's archive, asked with lists and sources of its own, so that the machine's stay as they are.

# By their aliases, so that a new release of Debian moves them, and from the oldest to the newest.
suites=(oldoldstable oldstable oldstable-backports stable stable-backports)
# Lines of suite, package and version: what the suites have. Lines of alias and codename: which suites there are.
offered="$cache/apt/offered" codenames="$cache/apt/codenames"

# private_apt SUITE PROGRAM ARGUMENT...: a program of apt that knows nothing but that suite.
private_apt() {
    local suite="$1" program="$2" state="$cache/apt"; shift 2
    "$program" -q -o Dir::Etc::sourcelist="$state/$suite.list" -o Dir::Etc::sourceparts=- \
        -o Dir::Etc::preferences=- -o Dir::Etc::preferencesparts="$state/preferences.d" \
        -o Dir::State="$state" -o Dir::State::status="$state/status" -o Dir::Cache="$state" -o APT::Get::List-Cleanup=false \
        -o APT::Sandbox::User="$(id -un)" "$@"
}

# The archive's address comes from the machine itself.
ask_archive() {
    local archive suite state="$cache/apt"
    archive="$(apt-get indextargets --format '$(REPO_URI)' \
        'Created-By: Packages' 'Label: Debian' 'Component: main' | head -n 1)"
    [[ -n "$archive" ]] || die "the machine's apt configuration names no Debian archive (run 'apt-get update')"
    rm -rf "$state"
    mkdir -p "$state/lists/partial" "$state/archives/partial" "$state/preferences.d"
    : >"$state/status"
    : >"$offered"
    : >"$codenames"
    for suite in "${suites[@]}"; do
        say "asking $archive for $suite"
        ask_suite "$archive" "$suite" || say "$suite cannot be had"
    done
    [[ -s "$offered" ]] || die "nothing can be had from $archive"
}

# Leaves $suite.list, and adds to $offered and $codenames.
ask_suite() {
    local archive="$1" suite="$2" state="$cache/apt" codename file
    rm -f "$state/InRelease"
    # Lists of an alias that moves would be refused; those of its codename are not.
    /usr/lib/apt/apt-helper -q -o APT::Sandbox::User="$(id -un)" \
        download-file "${archive%/}/dists/$suite/InRelease" "$state/InRelease" >/dev/null 2>&1 || return
    codename="$(sed -nE 's/^Codename: ([a-z-]+)$/\1/p' "$state/InRelease" | head -n 1)"
    [[ -n "$codename" ]] || return
    # Backports need the release that they are for.
    printf 'deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
        "$archive" "$codename" "$archive" "${codename%-backports}" | sort -u >"$state/$suite.list"
    private_apt "$suite" apt-get update >&2 || return
    file="$(private_apt "$suite" apt-get indextargets --format '$(FILENAME)' 'Created-By: Packages' "Release: $codename")"
    [[ -n "$file" ]] || return
    /usr/lib/apt/apt-helper cat-file "$file" | awk -v suite="$suite" '
        $1 == "Package:" { package = $2 }
        $1 == "Version:" && package ~ /^(linux-image-[0-9].*|qemu-system-x86|libvirt-daemon|sway|gstreamer1\.0-plugins-bad)$/ { print suite, package, $2 }
    ' >>"$offered" || return
    printf '%s %s\n' "$suite" "$codename" >>"$codenames"
}

# The version of a package in a suite.
version_in() { awk -v suite="$1" -v package="$2" '$1 == suite && $2 == package { print $3; exit }' "$offered"; }
