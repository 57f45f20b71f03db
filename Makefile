# make           the programs; needs Swift and four libraries, and says which are missing
# make guest     udmabridge-guest, the agent of guests: one static program for any distribution, in .build/release
# make install   programs, manual pages, completions, and the files for libvirt and systemd (DESTDIR, PREFIX=/usr/local)
# make uninstall removes exactly these
# make install-guest    in a guest: the agent, its manual pages and completions, its unit, user and rule of udev (DESTDIR, PREFIX)
# make uninstall-guest  removes exactly these, except the user
# make deb       the files of make install, as a package for this release of Debian and later ones, in .build-deb
# make guest-deb the files of make install-guest, as a package for Debian 11 and later
# make dist      all programs with packaging/install as a tarball, for distributions without a package, in .build-dist
# make man       the manual pages, in .build-man
# make docs      the library's documentation (DocC), in .build-docs
#
# The first run of these fetches what they need (qemu/setup):
# make demo      boots a VM, shows a guest on its card, writes demo.png (DEVICE=gpu, blob or share)
# make test      all tests, native and in the test host: an hour or more (QUICK=1: the most important ones; CONTINUE=1: go on
#                where the last run was interrupted)
# make check     the checks before each change: the format, make bench-check, the fuzz targets, make test QUICK=1
# make bench     the figures
# make bench-check   fails if a frame, resolve or create takes over 3 % more instructions than Benchmarks/instructions.txt
#                says, or one allocation more (UPDATE=1: writes that file anew)
# make bench-parts   the instructions of a flush, a flip and the helper's start, by what they are for
# make fuzz      every fuzz target for SECONDS=20 from its corpus, with the address sanitizer
# make bare      the README's commands in a bare Debian RELEASE=12 or 13 (WHOLE=1: all of make test)
# make bare-deb     the package of make deb in bare Debians: installed, tried, purged (RELEASE=12 or 13; both by default)
# make bare-guest   that of make guest-deb (RELEASE=11, 12 or 13; all by default)
# make bare-dist    the tarball of make dist in a bare Debian 13: unpacked, installed, tried, uninstalled (RELEASE=12 or 13)
# make check-kubernetes   checks the files of packaging/kubernetes with validators from PyPI
#
# While you work:
# make quick FILTER=ResolveTests        native tests, those whose names match, in under a minute after a small change
# qemu/test-host BuffersTests           the same in the test host, for tests that need its devices
# make lint                             the format, strictly

# The compiler would let programs look for libraries in their own directory, where there are none.
NAMED_BUILD = swift build -c release --static-swift-stdlib --disable-local-rpath
SWIFT_BUILD = $(NAMED_BUILD) -Xlinker -s
# Without unused code, because it has to be small.
GUEST_BUILD = $(SWIFT_BUILD) --scratch-path .build-guest -Xswiftc -static-executable -Xswiftc -Osize -Xlinker --gc-sections
SECONDS = 20
FILTER = .

.PHONY: all programs guest docs install uninstall install-guest uninstall-guest deb guest-deb dist man man-guest demo test check bench bench-check bench-parts fuzz bare bare-deb bare-guest bare-dist check-kubernetes quick lint setup tests swift libraries clean

all: programs

# Each says what is missing and where to get it, and stops.
swift:
	@packaging/need swift

libraries:
	@packaging/need libraries

setup: swift
	@qemu/setup $(SETUP)

programs: libraries
	$(SWIFT_BUILD) --product vhost-user-udmabuf
	$(SWIFT_BUILD) --product udmabridge

guest: swift
	$(GUEST_BUILD) --product udmabridge-guest
	install -D -m 755 .build-guest/release/udmabridge-guest .build/release/udmabridge-guest

tests: libraries
	swift build --build-tests

man: libraries
	swift package --scratch-path .build-man generate-manual --multi-page
	@find .build-man/plugins -name '*.1'

docs: swift
	swift package --scratch-path .build-docs generate-documentation --target Udmabuf --warnings-as-errors

# This needs none of the host's libraries: the pages come from the program itself.
man-guest: guest
	swift build --scratch-path .build-man --product generate-manual
	rm -rf .build-man/udmabridge-guest
	mkdir .build-man/udmabridge-guest
	.build-man/debug/generate-manual .build/release/udmabridge-guest --multi-page --output-directory .build-man/udmabridge-guest

install: programs man
	DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" packaging/install install

uninstall:
	DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" packaging/install uninstall

install-guest: guest man-guest
	DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" packaging/install install-guest

uninstall-guest:
	DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" packaging/install uninstall-guest

deb: programs man
	packaging/deb udmabridge

guest-deb: guest man-guest
	packaging/deb udmabridge-guest

dist: programs man guest man-guest
	packaging/dist

# setup comes first in these: it installs the libraries too.
demo: setup
	$(MAKE) programs
	qemu/demo $(if $(HOST),--host) $(if $(DEVICE),--device $(DEVICE))

test: SETUP = $(if $(QUICK),,--all)
test: setup
	$(MAKE) programs guest tests
	Tests/run $(if $(QUICK),--quick,--all) $(if $(CONTINUE),--continue)

check: setup
	$(MAKE) lint bench-check fuzz
	$(MAKE) test QUICK=1

bench: setup
	$(MAKE) programs
	$(SWIFT_BUILD) --product bench
	$(SWIFT_BUILD) --product bench-create
	$(SWIFT_BUILD) --product bench-listen
	qemu/bench

bench-check: setup
	$(SWIFT_BUILD) --product bench
	Benchmarks/check $(if $(UPDATE),--update)

# The functions have to have their names.
bench-parts: setup
	$(NAMED_BUILD) --product bench
	$(NAMED_BUILD) --product vhost-user-udmabuf
	Benchmarks/parts

fuzz: setup
	Fuzz/run $(SECONDS)

bare:
	packaging/bare $(RELEASE) $(if $(WHOLE),-- "make demo" "make test")

bare-deb: deb
	packaging/bare-package udmabridge $(RELEASE)

bare-guest: guest-deb
	packaging/bare-package udmabridge-guest $(RELEASE)

bare-dist: dist
	packaging/bare-package dist $(RELEASE)

check-kubernetes:
	packaging/kubernetes/validate

quick: tests
	Tests/run '$(FILTER)'

lint: swift
	swift format lint --strict --parallel --recursive Package.swift Sources Tests Benchmarks Fuzz

clean:
	rm -rf .build .build-*
