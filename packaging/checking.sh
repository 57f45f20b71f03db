# Sourced by check-deb and check-dist in a bare system, as root: checks, each of which prints a line.

failures=0

# check WHAT COMMAND...: with the command's own words, where it fails.
check() {
    local what="$1" output
    shift
    if output="$("$@" 2>&1)"; then
        echo "ok      $what"
    else
        echo "FAILED  $what"
        sed 's/^/        /' <<<"$output"
        failures=$((failures + 1))
    fi
}

# says PATTERN COMMAND...: it succeeds, and a line that it prints is PATTERN.
says() {
    local pattern="$1" output status=0
    shift
    output="$("$@" 2>&1)" || status=$?
    echo "$output"
    [[ $status == 0 ]] && grep -qx -- "$pattern" <<<"$output"
}

# says_nothing COMMAND...
says_nothing() {
    local output status=0
    output="$("$@" 2>&1)" || status=$?
    echo "$output"
    [[ $status == 0 && -z "$output" ]]
}

apt() { apt-get -q -y -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io --no-install-recommends "$@"; }
as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }

# check_program PATH VERSION: what each program can do without a device.
check_program() {
    local name="${1##*/}"
    # One subcommand, or only options.
    check "an ordinary user: $name --version" says "$2" as_nobody "$1" --version
    check "an ordinary user: $name --help" says "USAGE: $name .*" as_nobody "$1" --help
}

# check_host_programs: the libraries of both are there and do their work, as an ordinary user calls them.
check_host_programs() {
    check "the libraries are there, none of them Swift's" has_libraries
    check "the helper says what libvirt asks" says '{"type": "gpu".*' as_nobody vhost-user-udmabuf --print-capabilities
    check "plan" says 'result   lent' as_nobody udmabridge plan --machine q35 --memory 3G --list-limit 1024 --size-limit-mb 64 \
        0x7ffff000:4K 0x100000000:8096K
    check "doctor tells as JSON" says ' *"name" : "memfd",' doctor
    check "a definition is enabled (libxml2)" says '.*<driver name="vhostuser"/>.*' enable
    check "memory is written as a PNG (libpng)" writes_png
}

has_libraries() {
    ldd "$(type -P udmabridge)" "$(type -P vhost-user-udmabuf)" >/tmp/libraries
    cat /tmp/libraries
    ! grep -q -e 'not found' -e swift /tmp/libraries
}

# Status 1 says that something is missing, as /dev/udmabuf is here.
doctor() {
    local status=0
    as_nobody udmabridge doctor --json || status=$?
    ((status <= 1))
}

definition="<domain type='kvm'>
  <name>web</name>
  <memory unit='KiB'>524288</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><video><model type='vga'/></video></devices>
</domain>"
enable() { as_nobody udmabridge libvirt enable --stdin <<<"$definition"; }
writes_png() {
    as_nobody udmabridge memfd --size 1M -- udmabridge dump --fd {} --size 64x64 --as png >/tmp/picture.png \
        && [[ "$(head -c 8 /tmp/picture.png | od -An -tx1)" == " 89 50 4e 47 0d 0a 1a 0a" ]]
}

# check_end: the status of all.
check_end() {
    echo "failures: $failures"
    ((failures == 0))
}
