# make demo      the main job, once, on a machine of your own making; leaves demo.png (DEVICE=gpu, blob or share)
# make test      the tests, native and in the test host
# make check     the format, the fuzz targets, the native tests, and the most important ones in the test host
# make bench     the figures
# make man       the manual pages, in .build-man
# make install   programs, manual pages, completions, and what libvirt and systemd look for (DESTDIR, PREFIX=/usr/local)
# make uninstall removes exactly these
# make fuzz      every fuzz target for SECONDS=20 from its corpus, with the address sanitizer
# make lint      the format, strictly
# Each does all of its own set-up; a second run repeats nothing.

SWIFT_BUILD = swift build -c release --static-swift-stdlib -Xlinker -s
SECONDS = 20
PROGRAMS = .build/release/vhost-user-udmabuf .build/release/udmabridge

.PHONY: all install uninstall demo check test test-native test-host bench man fuzz lint setup swift clean programs

all: programs

# Says how to get Swift where it is missing, and stops.
swift:
	@qemu/lib/need-swift

setup: swift
	@qemu/setup

programs: setup
	$(SWIFT_BUILD) --product vhost-user-udmabuf
	$(SWIFT_BUILD) --product udmabridge

demo: programs
	qemu/demo $(if $(HOST),--host) $(if $(DEVICE),--device $(DEVICE))

# Native tests of QEMU's window are skipped where what draws it has not been fetched.
test: swift
	@qemu/setup --all
	$(MAKE) test-native test-host

# Emulated guests come last: beside all the others they would be too slow.
test-native: setup
	swift build --build-tests
	swift test --skip-build --disable-xctest --skip NativeDisplayTests --skip LibvirtDomains --skip LibvirtSetups
	swift test --skip-build --disable-xctest --filter NativeDisplayTests

# What needs the kernel's udmabuf, KVM, QEMU and a KMS card. There, nothing is skipped.
test-host: programs
	@qemu/setup --all
	swift build --build-tests
	qemu/test-host

# What must hold before each change: in less than half an hour on two processors.
check: lint fuzz test-native programs
	qemu/test-host --quick

bench: programs
	$(SWIFT_BUILD) --product bench
	$(SWIFT_BUILD) --product bench-create
	qemu/bench

man: swift
	swift package --scratch-path .build-man generate-manual --multi-page
	@find .build-man/plugins -name '*.1'

install: programs man
	DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" packaging/install install

uninstall:
	DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" packaging/install uninstall

fuzz: setup
	Fuzz/run $(SECONDS)

lint: swift
	swift format lint --strict --parallel --recursive Package.swift Sources Tests Benchmarks Fuzz

clean:
	rm -rf .build .build-*
