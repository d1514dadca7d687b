# One way to do each thing. `make demo` and `make test` need a Debian 12 machine, Rust, and root or sudo.

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
CARGO := cargo
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/rxl-tools
OUT := $(or $(CARGO_TARGET_DIR),target)
NESTED := $(CARGO) test --release --workspace --test nested
DENY_VERSION := 0.20.2
DEB_VERSION := 3.8.0

.PHONY: help deps build deb test test-quick test-long demo lint bench bench-quiesce man lab-up lab-down clean

help:
	@echo 'make deps        install what is needed from Debian'
	@echo 'make build       build rxl (target/release/rxl)'
	@echo 'make deb         build the guest agent and its package (target/debian)'
	@echo 'make test        unit tests, sessions in memory, nested Xen'
	@echo 'make test-long   the scenarios on nested Xen that take longest, too: an hour and a half more'
	@echo 'make test-quick  everything but nested Xen'
	@echo 'make demo        two nested Xen hosts, an MPI job, a migration'
	@echo 'make lint        rustfmt, clippy, cargo-deny'
	@echo 'make bench       rxl beside stock xl, the data path alone, rxl stream beside Xen'\''s checker'
	@echo 'make bench-quiesce  an MPI job moved by xl and at each level of --mpi-quiesce'
	@echo 'make man         man pages and shell completions, in target/man'
	@echo 'make lab-up      two nested Xen hosts to work with; make lab-down ends them'

deps:
	@$(SUDO) tests/lab/images/deps.sh libxen-dev libclang-dev pkg-config python3 iproute2 util-linux dpkg-dev

# Always the whole workspace: of one package alone, cargo would build the dependencies again with that one's features.
build: deps
	$(CARGO) build --release --workspace --bins

deb: deps $(TOOLS)/bin/cargo-deb
	$(CARGO) build --release --workspace --bin rxl-guest-agent
	$(TOOLS)/bin/cargo-deb --package rxl-guest-agent --no-build --locked

# Tools that run for a second: built without optimisation, which takes a third of the time.
$(TOOLS)/bin/cargo-deb:
	$(CARGO) install cargo-deb --debug --locked --version $(DEB_VERSION) --root $(TOOLS)

test-quick: deps
	$(CARGO) test --release --workspace

# The images may need root for debootstrap; the cache is the invoking user's.
test: test-quick deb
	$(CARGO) test --release --workspace --test memory_bound -- --nocapture
	$(NESTED)

# A leak shows in ten round trips.
test-long: test
	RXL_ROUND_TRIPS=10 $(NESTED) -- --ignored

demo: build deb
	$(CARGO) build --release --workspace --example demo
	$(OUT)/release/examples/demo

lint: deps $(TOOLS)/bin/cargo-deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --test nested --test memory_bound -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --quiet
	$(TOOLS)/bin/cargo-deny --offline check --hide-inclusion-graph bans licenses sources

$(TOOLS)/bin/cargo-deny:
	$(CARGO) install cargo-deny --debug --locked --version $(DENY_VERSION) --root $(TOOLS)

bench: build deb
	$(CARGO) bench --package migrate-stream
	$(CARGO) build --release --workspace --example make-stream
	tests/stream_bench.sh $(OUT)/release/rxl $(OUT)/release/examples/make-stream
	RXL_COMPARE_RUNS=5 RXL_COMPARE_GUESTS='dom3 small' $(NESTED) -- compare

# Four migrations each way, which take turns under one job: about forty minutes.
bench-quiesce: build deb
	RXL_QUIESCE_WAYS='xl off domain job job+tcp' RXL_QUIESCE_RUNS=4 $(NESTED) -- --nocapture an_audited_job_by_level

man:
	$(CARGO) run --example man -- target/man

lab-up: deps
	$(CARGO) run --release --package rxl-lab --bin lab -- up

lab-down:
	$(CARGO) run --release --package rxl-lab --bin lab -- down

clean:
	$(CARGO) clean
