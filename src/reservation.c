/*
 * reservation.c
 *		Money set aside for orders: reserve, release, execute, expire.
 *
 * A reservation is a row whose id is the id of the transaction that made it.
 * For each user the open remainders sum to his pending_investment balance, so
 * whatever changes a reservation changes that account: its lock, taken first,
 * orders all changes of one user's reservations. Their rows are then read
 * with a fresh snapshot and locked by id.
 *
 * What a transaction took from which reservation is a row of
 * reservation_draws, which is what a reversal gives back.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "args.h"
#include "errors.h"
#include "operations.h"
#include "reservation.h"
#include "stats.h"

enum
{
	R_ID, R_USER, R_ORDER, R_AMOUNT, R_EXECUTED, R_RELEASED, R_STATUS, R_EXPIRES, R_CREATED,
	R_COLUMNS
};
static const char *const reservation_columns[] = {
	"id", "user_id", "order_id", "amount", "executed", "released", "status", "expires_at",
	"created_at"
};
static StoreSpec reservation_spec = {"reservation_rows", reservation_columns, R_COLUMNS, NULL};

enum
{
	D_TRANSACTION, D_RESERVATION, D_EXECUTED, D_RELEASED, D_COLUMNS
};
static const char *const draw_columns[] = {
	"transaction_id", "reservation_id", "executed", "released"
};
static StoreSpec draw_spec = {"reservation_draws", draw_columns, D_COLUMNS, NULL};

typedef struct Reservation
{
	int64		id;
	pg_uuid_t	user_id;
	bool		has_order;
	pg_uuid_t	order_id;
	Numeric		amount;
	Numeric		executed;
	Numeric		released;
	const char *status;
	bool		has_expiry;
	TimestampTz expires_at;
	TimestampTz created_at;
	ItemPointerData tid;
} Reservation;

/* A change of one reservation; below zero: given back. */
typedef struct Draw
{
	Reservation reservation;
	Numeric		executed;
	Numeric		released;
} Draw;

struct ReservationPlan
{
	Store	   *store;
	Snapshot	snapshot;
	const char *closed_as;		/* status of one that has nothing left */
	int			n;
	int			max;
	Draw	   *draws;
};

#define DISPLAY_DIGITS	2		/* of the currency that is reserved */

static Numeric
normal(Numeric n)
{
	return ledger_amount_normalise(n, DISPLAY_DIGITS);
}

/* ---- rows ------------------------------------------------------------------------ */

static void
read_row(Reservation *r, Datum *values, bool *isnull)
{
	memset(r, 0, sizeof(*r));
	r->id = DatumGetInt64(values[R_ID]);
	r->user_id = *DatumGetUUIDP(values[R_USER]);
	r->has_order = !isnull[R_ORDER];
	if (r->has_order)
		r->order_id = *DatumGetUUIDP(values[R_ORDER]);
	r->amount = DatumGetNumericCopy(values[R_AMOUNT]);
	r->executed = DatumGetNumericCopy(values[R_EXECUTED]);
	r->released = DatumGetNumericCopy(values[R_RELEASED]);
	r->status = TextDatumGetCString(values[R_STATUS]);
	r->has_expiry = !isnull[R_EXPIRES];
	if (r->has_expiry)
		r->expires_at = DatumGetTimestampTz(values[R_EXPIRES]);
	r->created_at = DatumGetTimestampTz(values[R_CREATED]);
}

static void
write_row(const Reservation *r, Datum *values, bool *isnull)
{
	memset(isnull, 0, R_COLUMNS * sizeof(bool));
	values[R_ID] = Int64GetDatum(r->id);
	values[R_USER] = UUIDPGetDatum(&r->user_id);
	isnull[R_ORDER] = !r->has_order;
	values[R_ORDER] = UUIDPGetDatum(&r->order_id);
	values[R_AMOUNT] = NumericGetDatum(r->amount);
	values[R_EXECUTED] = NumericGetDatum(r->executed);
	values[R_RELEASED] = NumericGetDatum(r->released);
	values[R_STATUS] = CStringGetTextDatum(r->status);
	isnull[R_EXPIRES] = !r->has_expiry;
	values[R_EXPIRES] = TimestampTzGetDatum(r->expires_at);
	values[R_CREATED] = TimestampTzGetDatum(r->created_at);
}

static Numeric
remaining(const Reservation *r)
{
	return normal(ledger_amount_sub(ledger_amount_sub(r->amount, r->executed), r->released));
}

static bool
find_one(Store *store, const char *index, Oid function, Datum key, Snapshot snapshot,
		 Reservation *r)
{
	StoreKey	keys[1] = {{function, key, false, 0}};
	StoreScan  *scan = ledger_store_scan(store, index, snapshot, keys, 1);
	Datum		values[R_COLUMNS];
	bool		isnull[R_COLUMNS];
	ItemPointerData tid;
	bool		found = ledger_store_next(scan, ForwardScanDirection, values, isnull, &tid);

	if (found)
	{
		read_row(r, values, isnull);
		r->tid = tid;
	}
	ledger_store_end(scan);
	return found;
}

/* ---- plans ------------------------------------------------------------------------- */

static ReservationPlan *
new_plan(const char *closed_as)
{
	ReservationPlan *plan = palloc0(sizeof(ReservationPlan));

	plan->store = ledger_store_open(&reservation_spec, RowExclusiveLock);
	plan->snapshot = RegisterSnapshot(GetTransactionSnapshot());
	plan->closed_as = closed_as;
	plan->max = 4;
	plan->draws = palloc(sizeof(Draw) * plan->max);
	return plan;
}

static void
end_plan(ReservationPlan *plan)
{
	UnregisterSnapshot(plan->snapshot);
	ledger_store_close(plan->store);
}

/* Locks the row in its newest version and adds it to the plan. */
static Draw *
add_draw(ReservationPlan *plan, const Reservation *reservation)
{
	Datum		values[R_COLUMNS];
	bool		isnull[R_COLUMNS];
	ItemPointerData tid = reservation->tid;
	Draw	   *draw;

	if (plan->n == plan->max)
	{
		plan->max *= 2;
		plan->draws = repalloc_huge(plan->draws, sizeof(Draw) * plan->max);
	}
	draw = &plan->draws[plan->n++];
	memset(draw, 0, sizeof(*draw));
	if (ledger_store_lock(plan->store, &tid, plan->snapshot, true, values, isnull) != TM_Ok)
		elog(ERROR, "reservation " INT64_FORMAT " is gone", reservation->id);
	read_row(&draw->reservation, values, isnull);
	draw->reservation.tid = tid;
	draw->executed = draw->released = ledger_amount_zero();
	return draw;
}

static void
insert_draw(Store *store, int64 transaction_id, const Draw *draw)
{
	Datum		values[D_COLUMNS];
	bool		isnull[D_COLUMNS] = {false};

	values[D_TRANSACTION] = Int64GetDatum(transaction_id);
	values[D_RESERVATION] = Int64GetDatum(draw->reservation.id);
	values[D_EXECUTED] = NumericGetDatum(normal(draw->executed));
	values[D_RELEASED] = NumericGetDatum(normal(draw->released));
	ledger_store_insert(store, values, isnull);
}

static void
update_reservation(ReservationPlan *plan, const Draw *draw)
{
	Reservation r = draw->reservation;
	Datum		values[R_COLUMNS];
	bool		isnull[R_COLUMNS];

	r.executed = normal(ledger_amount_add(r.executed, draw->executed));
	r.released = normal(ledger_amount_add(r.released, draw->released));
	Assert(ledger_amount_sign(r.executed) >= 0 && ledger_amount_sign(r.released) >= 0);
	Assert(ledger_amount_sign(remaining(&r)) >= 0);
	r.status = ledger_amount_sign(remaining(&r)) > 0 ? "active" : plan->closed_as;
	write_row(&r, values, isnull);
	if (ledger_store_update(plan->store, &r.tid, plan->snapshot, values, isnull) != TM_Ok)
		elog(ERROR, "reservation " INT64_FORMAT " changed under its lock", r.id);
}

void
ledger_reservation_apply(ReservationPlan *plan, PostingRequest *request)
{
	Store	   *draws;

	if (plan == NULL)
		return;
	draws = ledger_store_open(&draw_spec, RowExclusiveLock);
	for (int i = 0; i < plan->n; i++)
	{
		insert_draw(draws, request->transaction_id, &plan->draws[i]);
		update_reservation(plan, &plan->draws[i]);
	}
	ledger_store_close(draws);
	end_plan(plan);
	CommandCounterIncrement();
}

/* ---- drawing ------------------------------------------------------------------------ */

typedef enum DrawKind
{
	DRAW_EXECUTE, DRAW_RELEASE
} DrawKind;

static void
raise_no_remainder(const pg_uuid_t *user_id, const pg_uuid_t *order_id,
				   Numeric found, Numeric wanted)
{
	const char *where = order_id ? psprintf("order %s", ledger_uuid_text(order_id)) :
		"reservations without an order";

	ereport(ERROR,
			(errcode(ERRCODE_LG_NO_RESERVATION),
			 errmsg("no such reservation or remainder: %s of user %s",
					where, ledger_uuid_text(user_id)),
			 ledger_may_show_amounts() ?
			 errdetail("Left is %s USDC, wanted are %s USDC.",
					   ledger_amount_out(found), ledger_amount_out(wanted)) : 0,
			 errhint("Look at the view ledger.reservations for what is left.")));
}

/* Takes up to want of the reservation; returns what is still wanted. */
static Numeric
draw_from(ReservationPlan *plan, const Reservation *reservation, DrawKind kind, Numeric want)
{
	Draw	   *draw = add_draw(plan, reservation);
	Numeric		left = remaining(&draw->reservation);
	Numeric		take = want == NULL || ledger_amount_cmp(want, left) > 0 ? left : want;

	if (ledger_amount_sign(take) <= 0)
	{
		plan->n--;
		return want;
	}
	if (kind == DRAW_EXECUTE)
		draw->executed = take;
	else
		draw->released = take;
	return want == NULL ? NULL : ledger_amount_sub(want, take);
}

/* The user's reservations without an order, oldest first. */
static Numeric
draw_oldest_first(ReservationPlan *plan, const pg_uuid_t *user_id, DrawKind kind, Numeric want)
{
	StoreKey	keys[1] = {{F_UUID_EQ, UUIDPGetDatum(user_id), false, 0}};
	StoreScan  *scan = ledger_store_scan(plan->store, "reservation_rows_user", plan->snapshot,
										 keys, 1);
	Datum		values[R_COLUMNS];
	bool		isnull[R_COLUMNS];
	ItemPointerData tid;
	Reservation *open = palloc(sizeof(Reservation) * 8);
	int			n = 0;
	int			max = 8;

	while (ledger_store_next(scan, ForwardScanDirection, values, isnull, &tid))
	{
		if (!isnull[R_ORDER] || strcmp(TextDatumGetCString(values[R_STATUS]), "active") != 0)
			continue;
		if (n == max)
			open = repalloc_huge(open, sizeof(Reservation) * (max *= 2));
		read_row(&open[n], values, isnull);
		open[n++].tid = tid;
	}
	ledger_store_end(scan);
	for (int i = 0; i < n && (want == NULL || ledger_amount_sign(want) > 0); i++)
		want = draw_from(plan, &open[i], kind, want);
	return want;
}

static Numeric
total_drawn(const ReservationPlan *plan)
{
	Numeric		total = ledger_amount_zero();

	for (int i = 0; i < plan->n; i++)
		total = ledger_amount_add(total, ledger_amount_add(plan->draws[i].executed,
														   plan->draws[i].released));
	return normal(total);
}

/*
 * What a release or an execution of want (NULL: all that is left) takes. An
 * order that has or had a reservation draws on that one only. Raises LG008.
 */
static ReservationPlan *
plan_draws(const pg_uuid_t *user_id, const pg_uuid_t *order_id, DrawKind kind, Numeric want)
{
	ReservationPlan *plan = new_plan(kind == DRAW_EXECUTE ? "executed" : "released");
	Reservation r;
	Numeric		missing;

	if (order_id && find_one(plan->store, "reservation_rows_order", F_UUID_EQ,
							 UUIDPGetDatum(order_id), plan->snapshot, &r))
	{
		if (memcmp(&r.user_id, user_id, UUID_LEN) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_LG_NO_RESERVATION),
					 errmsg("no such reservation or remainder: order %s of user %s",
							ledger_uuid_text(order_id), ledger_uuid_text(user_id)),
					 errdetail("The order is another user's."),
					 errhint("Pass the user whose order it is.")));
		missing = draw_from(plan, &r, kind, want);
	}
	else
		missing = draw_oldest_first(plan, user_id, kind, want);
	if (missing && ledger_amount_sign(missing) > 0)
		raise_no_remainder(user_id, order_id, total_drawn(plan), want);
	return plan;
}

/* ---- reserve ------------------------------------------------------------------------- */

static void
insert_reservation(const PostingRequest *request, bool has_expiry, TimestampTz expires_at)
{
	Store	   *store = ledger_store_open(&reservation_spec, RowExclusiveLock);
	Reservation r = {0};
	Datum		values[R_COLUMNS];
	bool		isnull[R_COLUMNS];

	r.id = request->transaction_id;
	r.user_id = request->user_id;
	r.has_order = request->has_reference;
	r.order_id = request->reference_id;
	r.amount = request->lines[0].amount;
	r.executed = r.released = normal(ledger_amount_zero());
	r.status = "active";
	r.has_expiry = has_expiry;
	r.expires_at = expires_at;
	r.created_at = request->created_at;
	write_row(&r, values, isnull);
	ledger_store_insert(store, values, isnull);
	ledger_store_close(store);
	CommandCounterIncrement();
}

/* (user_id, amount, order_id, expires_at) */
static Datum
reserve_for_investment(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *user_id = ledger_arg_uuid(fcinfo, 0, "user_id");
	Numeric		amount = ledger_arg_amount(fcinfo, 1, "USDC");
	bool		has_expiry = !PG_ARGISNULL(3);
	TimestampTz expires_at = has_expiry ? PG_GETARG_TIMESTAMPTZ(3) : 0;
	PostingRequest *request = ledger_posting_new("reserve_for_investment", "internal_transfer");
	int			from;
	int			to;

	if (has_expiry && TIMESTAMP_NOT_FINITE(expires_at))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("expires_at must be finite"),
				 errhint("Pass NULL for a reservation that does not expire.")));
	request->has_user = true;
	request->user_id = *user_id;
	request->allow_reserved = true;
	ledger_set_reference(request, ledger_arg_uuid_or_null(fcinfo, 2), NULL, "order");
	from = ledger_posting_account(request, LEDGER_USDC_BALANCE, user_id, NULL);
	to = ledger_posting_account(request, LEDGER_PENDING_INVESTMENT, user_id, NULL);
	ledger_posting_line(request, from, to, amount);
	ledger_post(request);
	if (!request->replayed)
		insert_reservation(request, has_expiry, expires_at);
	PG_RETURN_INT64(request->transaction_id);
}

/* ---- release ------------------------------------------------------------------------- */

static PostingRequest *
release_request(const char *operation, const pg_uuid_t *user_id, const pg_uuid_t *order_id)
{
	PostingRequest *request = ledger_posting_new(operation, "internal_transfer");
	int			from = ledger_posting_account(request, LEDGER_PENDING_INVESTMENT, user_id, NULL);
	int			to = ledger_posting_account(request, LEDGER_USDC_BALANCE, user_id, NULL);

	request->has_user = true;
	request->user_id = *user_id;
	request->allow_reserved = true;
	ledger_set_reference(request, order_id, NULL, "order");
	request->key_text = NULL;	/* the order alone is not a key of a release */
	ledger_posting_line(request, from, to, NULL);
	return request;
}

/* Posts what the plan drew; 0 if it drew nothing. */
static int64
post_release(PostingRequest *request, ReservationPlan *plan)
{
	if (plan->n == 0)
	{
		end_plan(plan);
		ledger_posting_cancel(request);
		return 0;
	}
	request->lines[0].amount = total_drawn(plan);
	ledger_posting_apply(request);
	ledger_reservation_apply(plan, request);
	return request->transaction_id;
}

/* (user_id, amount, order_id, release_id) */
static Datum
release_reservation(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *user_id = ledger_arg_uuid(fcinfo, 0, "user_id");
	Numeric		amount = PG_ARGISNULL(1) ? NULL : ledger_arg_amount(fcinfo, 1, "USDC");
	const pg_uuid_t *order_id = ledger_arg_uuid_or_null(fcinfo, 2);
	const char *release_id = ledger_arg_name(fcinfo, 3, "release_id", LEDGER_MAX_ID);
	PostingRequest *request = release_request("release_reservation", user_id, order_id);
	int64		id;

	/* a release of all that is left can be repeated without a key */
	if (amount && release_id)
		request->key_text = psprintf("release_reservation:%s:%s",
									 ledger_uuid_text(order_id ? order_id : user_id), release_id);
	request->lines[0].amount = amount;
	if (!ledger_posting_lock(request))
		PG_RETURN_INT64(request->transaction_id);
	id = post_release(request, plan_draws(user_id, order_id, DRAW_RELEASE, amount));
	if (id == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(id);
}

/* ---- execute ------------------------------------------------------------------------- */

/* A fill's key: operation:order_id:fill_id, without a fill_id the order alone. */
void
ledger_set_fill(PostingRequest *request, const pg_uuid_t *order_id, const char *fill_id)
{
	request->has_reference = true;
	request->reference_id = *order_id;
	request->reference_type = "order";
	request->key_text = psprintf(fill_id ? "%s:%s:%s" : "%s:%s", request->operation,
								 ledger_uuid_text(order_id), fill_id);
	if (fill_id == NULL)
		request->conflict_hint = "Pass the broker's execution id as fill_id for partial fills.";
}

/* (user_id, amount, order_id, fill_id) */
static Datum
execute_investment(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *user_id = ledger_arg_uuid(fcinfo, 0, "user_id");
	Numeric		amount;
	const pg_uuid_t *order_id;
	PostingRequest *request = ledger_posting_new("execute_investment", "investment");
	ReservationPlan *plan;

	(void) ledger_arg_amount(fcinfo, 1, "USDC");
	amount = ledger_arg_amount(fcinfo, 1, "USD");
	order_id = ledger_arg_uuid(fcinfo, 2, "order_id");
	request->has_user = true;
	request->user_id = *user_id;
	request->allow_reserved = true;
	ledger_set_fill(request, order_id, ledger_arg_name(fcinfo, 3, "fill_id", LEDGER_MAX_ID));
	ledger_add_conversion(request, user_id, LEDGER_PENDING_INVESTMENT, LEDGER_FIAT_EXPOSURE, amount);
	if (!ledger_posting_lock(request))
		PG_RETURN_INT64(request->transaction_id);
	plan = plan_draws(user_id, order_id, DRAW_EXECUTE, amount);
	ledger_posting_apply(request);
	ledger_reservation_apply(plan, request);
	PG_RETURN_INT64(request->transaction_id);
}

/* ---- expire -------------------------------------------------------------------------- */

static int
compare_user_and_id(const void *a, const void *b)
{
	const Reservation *x = a;
	const Reservation *y = b;
	int			c = memcmp(&x->user_id, &y->user_id, UUID_LEN);

	return c ? c : (x->id < y->id ? -1 : x->id > y->id);
}

/* Up to max reservations that are due, the longest due first, sorted by user. */
static int
find_due(int64 max, TimestampTz now, Reservation **list)
{
	Store	   *store = ledger_store_open(&reservation_spec, RowExclusiveLock);
	Snapshot	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	StoreKey	keys[1] = {{F_TIMESTAMPTZ_LE, TimestampTzGetDatum(now), false,
	BTLessEqualStrategyNumber}};
	StoreScan  *scan = ledger_store_scan(store, "reservation_rows_due", snapshot, keys, 1);
	Datum		values[R_COLUMNS];
	bool		isnull[R_COLUMNS];
	int			n = 0;
	int			room = 64;

	*list = palloc(sizeof(Reservation) * room);
	while (n < max && ledger_store_next(scan, ForwardScanDirection, values, isnull, NULL))
	{
		if (n == room)
			*list = repalloc_huge(*list, sizeof(Reservation) * (room *= 2));
		read_row(&(*list)[n++], values, isnull);
	}
	ledger_store_end(scan);
	UnregisterSnapshot(snapshot);
	ledger_store_close(store);
	qsort(*list, n, sizeof(Reservation), compare_user_and_id);
	return n;
}

/* Releases what is left of one; false if somebody was faster. */
static bool
expire_one(const Reservation *due)
{
	PostingRequest *request = release_request("expire_reservations", &due->user_id,
											  due->has_order ? &due->order_id : NULL);
	ReservationPlan *plan;
	Reservation now;

	request->description = cstring_to_text("reservation expired");
	request->lines[0].amount = due->amount;
	if (!ledger_posting_lock(request))
		elog(ERROR, "an expiry has no key to be replayed");
	plan = new_plan("expired");
	if (!find_one(plan->store, "reservation_rows_pkey", F_INT8EQ, Int64GetDatum(due->id),
				  plan->snapshot, &now))
		elog(ERROR, "reservation " INT64_FORMAT " is gone", due->id);
	(void) draw_from(plan, &now, DRAW_RELEASE, NULL);
	return post_release(request, plan) != 0;
}

/*
 * Locks what the releases will change, of all users together: user by user
 * would not be everybody's order. The caller ends it.
 */
static PostingRequest *
lock_due(const Reservation *due, int n)
{
	PostingRequest *all = ledger_posting_new("expire_reservations", "internal_transfer");

	all->allow_reserved = true;
	for (int i = 0; i < n; i++)
	{
		if (i > 0 && memcmp(&due[i].user_id, &due[i - 1].user_id, UUID_LEN) == 0)
			continue;
		(void) ledger_posting_new_account(all, LEDGER_PENDING_INVESTMENT, &due[i].user_id);
		(void) ledger_posting_new_account(all, LEDGER_USDC_BALANCE, &due[i].user_id);
	}
	(void) ledger_posting_lock(all);
	return all;
}

/* One frozen customer must not keep the others' money reserved. */
static bool
takes_postings(const PostingRequest *all, int user)
{
	return all->accounts[2 * user].account.status == LEDGER_ACCOUNT_OPEN &&
		all->accounts[2 * user + 1].account.status == LEDGER_ACCOUNT_OPEN;
}

/* (max_count) */
static Datum
expire_reservations(PG_FUNCTION_ARGS)
{
	int64		max;
	Reservation *due;
	PostingRequest *all;
	int			n;
	int64		expired = 0;

	ledger_arg_required(fcinfo, 0, "max_count");
	max = PG_GETARG_INT32(0);
	if (max < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_count must be above zero")));
	ledger_prevent_read_only("ledger.expire_reservations()");
	n = find_due(max, GetCurrentTimestamp(), &due);
	if (n == 0)
		PG_RETURN_INT64(0);
	all = lock_due(due, n);
	for (int i = 0, user = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (i > 0 && memcmp(&due[i].user_id, &due[i - 1].user_id, UUID_LEN) != 0)
			user++;
		if (takes_postings(all, user) && expire_one(&due[i]))
			expired++;
	}
	ledger_posting_cancel(all);
	ledger_stats_posted(expired);
	PG_RETURN_INT64(expired);
}

/* ---- reversal ------------------------------------------------------------------------- */

static void
raise_cannot_move_back(int64 original, int64 reservation)
{
	ereport(ERROR,
			(errcode(ERRCODE_LG_NOT_REVERSIBLE),
			 errmsg("cannot reverse transaction " INT64_FORMAT, original),
			 errdetail("Reservation " INT64_FORMAT " has less left than would be taken back.",
					   reservation),
			 errhint("Reverse first what was executed or released from it.")));
}

/* Adds what one transaction drew to the plan's draws, by reservation. */
static void
collect_draws(ReservationPlan *plan, Store *draws, int64 transaction_id)
{
	StoreKey	keys[1] = {{F_INT8EQ, Int64GetDatum(transaction_id), false, 0}};
	StoreScan  *scan = ledger_store_scan(draws, "reservation_draws_pkey", plan->snapshot, keys, 1);
	Datum		values[D_COLUMNS];
	bool		isnull[D_COLUMNS];

	while (ledger_store_next(scan, ForwardScanDirection, values, isnull, NULL))
	{
		int64		id = DatumGetInt64(values[D_RESERVATION]);
		Draw	   *draw = NULL;
		Reservation r;

		for (int i = 0; i < plan->n && draw == NULL; i++)
		{
			if (plan->draws[i].reservation.id == id)
				draw = &plan->draws[i];
		}
		if (draw == NULL)
		{
			if (!find_one(plan->store, "reservation_rows_pkey", F_INT8EQ, Int64GetDatum(id),
						  plan->snapshot, &r))
				elog(ERROR, "reservation " INT64_FORMAT " is gone", id);
			draw = add_draw(plan, &r);
		}
		draw->executed = ledger_amount_add(draw->executed,
										   DatumGetNumericCopy(values[D_EXECUTED]));
		draw->released = ledger_amount_add(draw->released,
										   DatumGetNumericCopy(values[D_RELEASED]));
	}
	ledger_store_end(scan);
}

/* At most limit of what is there, below zero: given back. */
static Numeric
give_back(Numeric drawn, Numeric *limit)
{
	Numeric		part = ledger_amount_cmp(drawn, *limit) < 0 ? drawn : *limit;

	*limit = ledger_amount_sub(*limit, part);
	return ledger_amount_negate(part);
}

/* Turns the draws of the original, less what was given back before, round. */
static void
turn_round(ReservationPlan *plan, Numeric amount)
{
	int			kept = 0;

	/* the newest reservation gets it first: the oldest stays first in line */
	for (int i = plan->n - 1; i >= 0; i--)
	{
		Draw	   *draw = &plan->draws[i];

		draw->executed = give_back(draw->executed, &amount);
		draw->released = give_back(draw->released, &amount);
	}
	for (int i = 0; i < plan->n; i++)
	{
		if (ledger_amount_sign(plan->draws[i].executed) != 0 ||
			ledger_amount_sign(plan->draws[i].released) != 0)
			plan->draws[kept++] = plan->draws[i];
	}
	plan->n = kept;
}

ReservationPlan *
ledger_reservation_plan_reversal(PostingRequest *request, int64 original)
{
	ReservationPlan *plan;
	Store	   *draws;
	Reservation made;
	Numeric		amount = request->lines[0].amount;
	JournalRow *reversals;
	int			nreversals;

	if (!ledger_posting_touches_reserved(request))
		return NULL;
	plan = new_plan("released");
	if (find_one(plan->store, "reservation_rows_pkey", F_INT8EQ, Int64GetDatum(original),
				 plan->snapshot, &made))
	{
		Draw	   *draw = add_draw(plan, &made);

		if (ledger_amount_cmp(remaining(&draw->reservation), amount) < 0)
			raise_cannot_move_back(original, made.id);
		draw->released = amount;
		return plan;
	}
	draws = ledger_store_open(&draw_spec, RowExclusiveLock);
	collect_draws(plan, draws, original);
	nreversals = ledger_journal_reversals(request->journal, original, plan->snapshot, &reversals);
	for (int i = 0; i < nreversals; i++)
		collect_draws(plan, draws, reversals[i].transaction_id);
	ledger_store_close(draws);
	turn_round(plan, amount);
	return plan;
}

/* ---- counted ------------------------------------------------------------------ */

LEDGER_COUNTED(ledger_reserve_for_investment, STATS_RESERVE_FOR_INVESTMENT, reserve_for_investment);
LEDGER_COUNTED(ledger_release_reservation, STATS_RELEASE_RESERVATION, release_reservation);
LEDGER_COUNTED(ledger_execute_investment, STATS_EXECUTE_INVESTMENT, execute_investment);
LEDGER_COUNTED(ledger_expire_reservations, STATS_EXPIRE_RESERVATIONS, expire_reservations);
