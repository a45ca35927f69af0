# ledger: double-entry ledger for PostgreSQL
#
#   make, make install      build and install with PGXS, for any PG_CONFIG
#   make installcheck       regression and isolation tests on a running server
#   make demo               the story, on a throwaway server of its own
#   make test               every test, likewise; SUITE="regress tap" for some
#   make soak               tests under load, for ten minutes each
#   make test-cassert       regression and isolation tests on a server with assertions
#   make test-caches        the same on one that forgets its catalog caches at once (slow)
#   make test-valgrind      regression tests with every memory access checked
#   make coverage           what of the C the tests reach
#   make bench              measurements; BENCH="quick", "bars" or parts, BENCH_CSV=file
#   make bench-growth       instructions, WAL, latency and sizes while the journal grows (long)
#   make format-check       layout of the sources
#
# demo, test and their like need nothing installed beforehand: see test/lib/sandbox.

EXTENSION = ledger
MODULE_big = ledger
PGFILEDESC = "ledger - double-entry ledger"

here := $(dir $(firstword $(MAKEFILE_LIST)))
sources := $(sort $(notdir $(wildcard $(here)src/*.c)))
OBJS := $(sources:%.c=src/%.o)

# The install script is these parts in this order.
SQL_PARTS = types settings accounts journal reservations operations balance \
	legacy mapping attach capture backfill reconcile repair explain \
	batch evidence stats migration samples report guard verify metrics alerts broker access
DATA_built = ledger--1.0.sql
DATA = src/reconcile.psql monitoring/ledger.exporter.yml monitoring/ledger.rules.yml

REGRESS := $(sort $(notdir $(basename $(wildcard $(here)sql/*.sql))))
# A spec cannot include a file: one that is made of them goes first and leaves
# the oracle and the helpers in the database for the others.
ISOLATION := oracle $(sort $(notdir $(basename $(wildcard $(here)test/isolation/specs/*.spec))))
ISOLATION_OPTS = --inputdir=$(srcdir)/test/isolation
REGRESS_PREP = output_iso/specs/oracle.spec

PG_CPPFLAGS = -I$(srcdir)/src
PG_CFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers

# These bring their own server; PostgreSQL may not even be installed yet.
sandbox_goals = demo test soak test-cassert test-caches test-valgrind coverage bench bench-growth format-check
.PHONY: $(sandbox_goals)

ifneq ($(filter-out $(sandbox_goals),$(or $(MAKECMDGOALS),all)),)
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
endif

# A header is small and few sources do without the others: all depend on all.
$(OBJS) $(OBJS:.o=.bc): $(wildcard $(here)src/*.h)

ifdef VPATH
$(shell mkdir -p src)
endif

ledger--1.0.sql: $(SQL_PARTS:%=src/sql/%.sql)
	cat $^ > $@

output_iso/specs/oracle.spec: test/lib/oracle.sql test/isolation/helpers.sql test/isolation/oracle.spec
	mkdir -p $(@D)
	(for sql in $(wordlist 1,2,$^); do echo 'setup {'; cat $$sql; echo '}'; done; cat $(lastword $^)) > $@

sandbox = '$(here)test/lib/sandbox'
test_packages = --with postgresql-15-pgtap --with postgresql-15-cron --with libipc-run-perl --with libdbd-pg-perl \
	--unpack prometheus --unpack prometheus-postgres-exporter

test:
	@$(sandbox) $(test_packages) test/run $(SUITE)

soak:
	@$(sandbox) $(test_packages) test/run soak

test-cassert:
	@$(sandbox) $(test_packages) --cassert test/run $(or $(SUITE),regress isolation)

test-caches:
	@$(sandbox) $(test_packages) --caches test/run $(or $(SUITE),regress isolation)

test-valgrind:
	@$(sandbox) $(test_packages) --valgrind test/run $(or $(SUITE),regress)

coverage:
	@$(sandbox) $(test_packages) --coverage test/lib/coverage $(SUITE)

demo:
	@echo 'Building, and starting a server that is gone afterwards ...'
	@$(sandbox) test/demo/run

# The user's files as open descriptors: the sandbox may not be able to reach them itself.
bench_options = $(if $(BENCH_CSV),--csv) $(if $(PEER_BENCH),--peer '$(or $(PEER_AS),transfer)')
bench_files = $(if $(BENCH_CSV),7>'$(BENCH_CSV)') \
	$(if $(PEER_BENCH),8<'$(or $(PEER_SQL),/dev/null)' 9<'$(PEER_BENCH)')

bench:
	@$(sandbox) --with valgrind test/bench/run measure $(bench_options) $(BENCH) $(bench_files)

bench-growth:
	@$(sandbox) --with valgrind test/bench/run growth $(if $(BENCH_CSV),--csv) \
		$(or $(BENCH_GROWTH),0 10 50) $(if $(BENCH_CSV),7>'$(BENCH_CSV)')

format-check:
	@perl '$(here)test/lib/style' '$(here)'
