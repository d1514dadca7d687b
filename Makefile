# One way to do each thing. `make demo` and `make test` need a Debian 12 machine, Rust, and root or
# sudo.

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
CARGO := cargo
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/rxl-tools
OUT := $(or $(CARGO_TARGET_DIR),target)

# Always the whole workspace, and always this profile: of one package alone, or in another profile,
# cargo would build the dependencies once more.
BUILD := $(CARGO) build --release --workspace
TEST := $(CARGO) test --release --workspace
NESTED := $(TEST) --test nested

# Sessions with random faults that `make soak` runs; some hundreds a second.
SOAK_SESSIONS := 1000000

# Prints at its end where the time went.
TIMED := tests/times.sh run
STEP := tests/times.sh step
STEP_CARGO := tests/times.sh cargo

DENY_VERSION := 0.20.2
DEB_VERSION := 0.1.0-1

.PHONY: help deps build deb test test-long test-quick test-build soak demo lint bench bench-quiesce
.PHONY: man all-tests all-tests-long hooks lab-up lab-down clean

help:
	@echo 'make deps        install what is needed from Debian'
	@echo 'make build       build rxl (target/release/rxl)'
	@echo 'make deb         build the guest agent and its package (target/debian)'
	@echo 'make test        unit tests, sessions in memory, nested Xen; tells where the time went'
	@echo 'make test-long   make test, and the other scenarios on nested Xen: two hours more'
	@echo 'make test-quick  everything but nested Xen'
	@echo 'make soak        the handover searched with more at once; a million sessions with faults'
	@echo 'make demo        two nested Xen hosts, an MPI job, a migration'
	@echo 'make lint        rustfmt, clippy, rustdoc, cargo-deny, spelling, house rules'
	@echo 'make hooks       let git run the fast part of lint before each commit'
	@echo 'make bench       rxl beside stock xl, the data path alone, rxl stream beside Xen'\''s own'
	@echo 'make bench-quiesce  an MPI job moved by xl and at each level of --mpi-quiesce'
	@echo 'make man         man pages and shell completions, in target/man'
	@echo 'make lab-up      two nested Xen hosts to work with; make lab-down ends them'

deps:
	@$(STEP) 'packages from Debian' $(SUDO) tests/lab/images/deps.sh \
		libxen-dev libclang-dev pkg-config python3 iproute2 util-linux dpkg-dev openssh-server \
		openvswitch-switch

build: deps
	$(BUILD) --bins

deb: deps
	$(BUILD) --bin rxl-guest-agent
	guest-agent/debian/build.sh $(OUT)/release/rxl-guest-agent $(DEB_VERSION) $(OUT)/debian

test-build: deps
	$(STEP) 'building the tests' $(TEST) --no-run
	$(STEP) 'building those for nested Xen' $(TEST) --no-run --test nested --test memory_bound

test-quick: test-build
	$(STEP_CARGO) 'tests without Xen' $(TEST)

# The images may need root for debootstrap; the cache is the invoking user's.
test:
	@$(TIMED) $(MAKE) --no-print-directory all-tests

test-long:
	@$(TIMED) $(MAKE) --no-print-directory all-tests-long

all-tests: test-quick deb
	$(STEP_CARGO) 'memory bounds' $(TEST) --test memory_bound -- --nocapture
	$(STEP) 'nested Xen' $(NESTED)

# A leak shows in ten round trips.
all-tests-long: all-tests
	$(STEP) 'nested Xen, long' env RXL_ROUND_TRIPS=10 $(NESTED) -- --ignored

soak: deps
	$(STEP_CARGO) 'the handover, searched' $(TEST) --test model -- --include-ignored --nocapture
	$(STEP_CARGO) 'sessions with random faults' env RXL_SOAK_SESSIONS=$(SOAK_SESSIONS) \
		$(TEST) --test soak -- --nocapture

demo: deb
	$(BUILD) --bins --example demo
	$(OUT)/release/examples/demo

# In the profile of the tests, which saves building what macros and build scripts need twice.
lint: deps $(TOOLS)/bin/cargo-deny
	$(STEP) rustfmt $(CARGO) fmt --all --check
	$(STEP) clippy $(CARGO) clippy --release --workspace --all-targets \
		--test nested --test memory_bound -- -D warnings
	$(STEP) rustdoc env RUSTDOCFLAGS='-D warnings' \
		$(CARGO) doc --release --workspace --no-deps --quiet
	$(STEP) cargo-deny $(TOOLS)/bin/cargo-deny --offline check --hide-inclusion-graph \
		bans licenses sources
	$(STEP) 'spelling and house rules' tests/lint/run.sh

# Makes git run the fast part of lint before each commit.
hooks:
	tests/lint/hooks.sh install

# From its source on crates.io, once: a tool that runs for a second is built without optimisation.
$(TOOLS)/bin/cargo-deny:
	$(CARGO) install cargo-deny --debug --locked --version $(DENY_VERSION) --root $(TOOLS)

bench: build deb
	$(CARGO) bench --package migrate-stream
	$(BUILD) --example make-stream
	tests/stream_bench.sh $(OUT)/release/rxl $(OUT)/release/examples/make-stream
	RXL_COMPARE_RUNS=5 RXL_COMPARE_GUESTS='dom3 small' \
		$(NESTED) -- --include-ignored compare

# Four migrations each way, which take turns under one job: about forty minutes.
bench-quiesce: build deb
	RXL_QUIESCE_WAYS='xl off domain job job+tcp' RXL_QUIESCE_RUNS=4 \
		$(NESTED) -- --nocapture an_audited_job_by_level

man:
	$(CARGO) run --example man -- target/man

lab-up: deps
	$(BUILD) --bin lab
	$(OUT)/release/lab up

lab-down:
	$(BUILD) --quiet --bin lab
	$(OUT)/release/lab down

clean:
	$(CARGO) clean
