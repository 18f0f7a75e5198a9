# `make bench`, for the Makefile at the top.
BENCH_ARCHS ?= x86_64 aarch64
# Passed on: --gate (fail if a figure got worse), --save (keep the figures as the committed ones), --no-native, --native-only.
BENCH ?=
PROBE = -p coracle-measure --bin coracle-probe --profile guest --target $(ARCH)-unknown-linux-gnu

.PHONY: bench bench-io bench-all-inputs bench-inputs bench-micro bench-oci bench-rings

bench: bench-all-inputs ## measure boots in the emulated host and starts on /dev/kvm, and compare
	cargo bench --bench vm -- boot $(BENCH_ARCHS:%=--arch %) $(BENCH)

bench-io: bench-all-inputs ## measure disks, networks, vsock and console of guests in the emulated host, and compare
	cargo bench --bench vm -- io $(BENCH_ARCHS:%=--arch %) $(BENCH)

bench-all-inputs:
	cargo build --release --bin coracle
	@for arch in $(BENCH_ARCHS); do $(MAKE) --no-print-directory bench-inputs ARCH=$$arch || exit; done

bench-inputs: guest # VMM, guest, probe and kernel bundle for ARCH
ifeq ($(ARCH),$(HOST))
	cargo rustc $(PROBE) $(STATIC)
else
	RUSTC=$(CROSS_RUSTC) cargo build --release --bin coracle --target $(ARCH)-unknown-linux-gnu --target-dir target/cross
	RUSTC=$(CROSS_RUSTC) cargo rustc $(PROBE) --target-dir target/cross $(STATIC)
endif
	target/release/coracle kernel build --arch $(ARCH)

bench-micro: ## measure single steps: an access on the bus, a request in its ring
	cargo bench --package coracle-micro

# Passed on: --runs N, --requests N, --only WORD (of a line's name), --no-event-idx.
RINGS ?=

bench-rings: ## requests per second and exits per request of virtio queues on /dev/kvm (x86_64)
	cargo bench --bench rings -- $(RINGS)

# Passed on: --runs N.
OCI ?=

bench-oci: ## time containers by coracle-oci beside crun and runc, as root on an idle machine
	cargo rustc --package coracle-guest --bin coracle-oci --profile guest --target $(HOST)-unknown-linux-gnu $(STATIC)
	CORACLE_OCI=$(CURDIR)/target/$(HOST)-unknown-linux-gnu/guest/coracle-oci cargo bench --package coracle-guest --bench oci -- $(OCI)
