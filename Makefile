EXTENSION = ledger
MODULE_big = ledger
OBJS = $(patsubst %.c,%.o,$(wildcard src/*.c))
PGFILEDESC = "ledger - double-entry ledger"

# The install script is these parts in this order.
SQL_PARTS = types settings accounts journal reservations \
	operations balance legacy reconcile broker guard access
DATA_built = ledger--1.0.sql
EXTRA_CLEAN = ledger--1.0.sql

PG_CPPFLAGS = -I$(srcdir)/src
PG_CFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

ledger--1.0.sql: $(SQL_PARTS:%=src/sql/%.sql)
	cat $^ > $@
