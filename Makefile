# Everything a developer types. Each target installs what it lacks; none reads standard input.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# A toolchain from rustup is found even where the login files were not read.
export PATH := $(HOME)/.cargo/bin:$(PATH)
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Quieter in .ci/run.
CARGO_FLAGS ?= --locked

# `make test PG=14 KAFKA=3.9`: the servers of those versions, fetched, instead of the installed Postgres and the usual Kafka.
# It holds for every target that starts servers; docs/versions.md says what was run with which.
known = $(shell awk '!/^\#/ && !seen[$$1]++ { print $$1 }' deploy/$(1)/versions)
one-of = $(if $(and $(filter 1,$(words $(1))),$(filter $(1),$(2))),$(1),$(error $(3)=$(1) is not known; there are: $(2)))
KAFKA_HOME := target/kafka
ifdef KAFKA
KAFKA_HOME := target/kafka-$(call one-of,$(KAFKA),$(call known,kafka),KAFKA)
export OUTBOX_RELAY_KAFKA_JARS := $(CURDIR)/$(KAFKA_HOME)/lib
endif
ifdef PG
POSTGRES_HOME := target/postgres/$(call one-of,$(PG),$(call known,postgres),PG)
export OUTBOX_RELAY_POSTGRES_BIN := $(CURDIR)/$(POSTGRES_HOME)/bin
endif

.PHONY: help
help: ## lists every target
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## installs what is missing: C toolchain, OpenSSL, Postgres, PgBouncer, promtool, Java, Maven (Debian, Ubuntu)
	@scripts/setup.sh

.PHONY: kafka
kafka: $(KAFKA_HOME)/fetched ## fetches Apache Kafka's jars to target/kafka/lib (KAFKA=3.9: to target/kafka-3.9/lib)

target/kafka/fetched: deploy/kafka/pom.xml | setup
	@scripts/kafka.sh $(@D)/lib
	@touch $@

target/kafka-%/fetched: deploy/kafka/pom.xml deploy/kafka/versions | setup
	@scripts/kafka.sh $(@D)/lib $*
	@touch $@

.PHONY: postgres
postgres: setup $(if $(PG),$(POSTGRES_HOME)/fetched) ## fetches the Postgres of PG=18 to target/postgres/18; without PG: the installed one

target/postgres/%/fetched: deploy/postgres/pom.xml deploy/postgres/versions | setup
	@scripts/postgres.sh $* $(@D)
	@touch $@

.PHONY: servers
servers: setup postgres kafka

.PHONY: build
build: setup ## builds the relay for development
	@cargo build $(CARGO_FLAGS)

.PHONY: demo
demo: servers build ## orders, two relays, a killed leader, an audit: about a minute
	@$(TARGET)/debug/outbox-relay demo --kafka-jars $(KAFKA_HOME)/lib

.PHONY: test
test: servers rules-check manifests ## all tests, on real Postgres and real Kafka (PG=14 KAFKA=3.9: on those versions)
	@cargo test --no-run $(CARGO_FLAGS)
	@cargo test --locked

.PHONY: faults
faults: servers ## breaks everything once, reads every topic back and judges: ten minutes
	@cargo test $(CARGO_FLAGS) --test faults -- --seed $(or $(SEED),1) $(SCENARIOS)

SEEDS ?= 3
.PHONY: bite
bite: servers ## breaks the relay on purpose: the checker has to reject every seeded bug, on SEEDS=3 seeds
	@cargo test --no-run $(CARGO_FLAGS) --test faults
	@scripts/bite.sh "$$(ls -t $(TARGET)/debug/deps/faults-* | grep -v '\.d$$' | head -n 1)" $(SEEDS) $(BUGS)

SOAK ?= 1h
.PHONY: soak
soak: servers ## the same in random order, with more messages, for SOAK=1h
	@cargo test $(CARGO_FLAGS) --test faults -- --soak $(SOAK) $(if $(SEED),--seed $(SEED))

.PHONY: scale
scale: servers ## the tests about many rows, with up to a million: a quarter of an hour, by hand
	@OUTBOX_RELAY_TEST_SCALE=full cargo test $(CARGO_FLAGS) --test it -- --nocapture --test-threads 1 \
		lanes::a_missing lanes::many_sick plan::due delivery::many_scheduled requests::letters::many requests::letters::a_page reconcile::many

.PHONY: lint
lint: setup compose-check ## format, clippy, scripts and docker-compose.yml
	@cargo fmt --check
	@cargo clippy --all-targets $(CARGO_FLAGS) -- -D warnings
	@cargo clippy --test faults --test drill $(CARGO_FLAGS) -- -D warnings
	@for script in scripts/*.sh .ci/run; do bash -n $$script; done

.PHONY: compose-check
compose-check: ## checks docker-compose.yml with Debian's compose tool, without an engine
	@scripts/setup.sh compose
	@scripts/compose-check.sh

target/python/ready: deploy/requirements.txt scripts/python.sh | setup
	@scripts/python.sh $(@D)
	@touch $@

.PHONY: rules
rules: target/python/ready ## writes and tests the alert rules: what fires when, and that each change of a rule is noticed
	@scripts/rules.sh

.PHONY: rules-check
rules-check: target/python/ready ## the same in two minutes, without breaking the rules on purpose; writes nothing
	@scripts/rules.sh check

.PHONY: drill
drill: servers target/python/ready ## real relays, Prometheus and Alertmanager: does each fault fire its alert and no other page? half an hour
	@cargo test $(CARGO_FLAGS) --test drill -- $(FAULTS)

.PHONY: manifests
manifests: target/python/ready ## checks deploy/kubernetes against three versions of Kubernetes and its own list
	@target/python/bin/python3 deploy/kubernetes/check.py

.PHONY: guard
guard: servers ## what a row costs in instructions, buffers and WAL, against tests/guard/figures.json: a minute
	@scripts/setup.sh guard
	@cargo test $(CARGO_FLAGS) --test guard

.PHONY: bench
bench: servers ## the relay, librdkafka alone and a plain relay in turns: a quarter of an hour (MATRIX=all: hours)
	@cargo bench $(CARGO_FLAGS) --bench relay

target/debezium/fetched: deploy/debezium/pom.xml | setup
	@echo "debezium: fetching its jars with Maven into $(@D)/lib" >&2
	@rm -rf $(@D)/lib
	@mvn -q -B -Dstyle.color=never -f $< -Ddebezium.lib=$(CURDIR)/$(@D)/lib package
	@touch $@

.PHONY: bench-peers
bench-peers: servers target/debezium/fetched ## the same with Debezium's outbox router among them
	@cargo bench $(CARGO_FLAGS) --bench relay

.PHONY: bench-flat
bench-flat: servers ## long backlogs, held snapshots, open writers, floods: an hour and 12 GB of disk (PARTS='snapshot flood')
	@cargo bench $(CARGO_FLAGS) --bench relay -- flat $(PARTS)

.PHONY: bench-failures
bench-failures: servers ## what healthy rows lose while others fail: a quarter of an hour (PARTS='missing latency')
	@cargo bench $(CARGO_FLAGS) --bench relay -- failures $(PARTS)

.PHONY: clean
clean: ## removes everything built and fetched
	@cargo clean
	@rm -rf target/kafka target/kafka-* target/debezium target/postgres target/python target/bench
