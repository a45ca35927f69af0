/*
 * posting.h
 *		The engine: one ledger transaction of one or more postings.
 *
 * A caller fills a PostingRequest and calls ledger_post(); a caller that must
 * look at something under the accounts' locks before it knows the amounts
 * calls ledger_posting_lock(), fills them in, then ledger_posting_apply().
 */
#ifndef LEDGER_POSTING_H
#define LEDGER_POSTING_H

#include "account.h"
#include "journal.h"
#include "settings.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#define LEDGER_MAX_POSTINGS		32767

#define LEDGER_KEY_TAKEN		"It was taken at the same moment by another session."

/* One account as the call moves it. */
typedef struct PostingAccount
{
	LedgerAccount account;
	bool		by_id;			/* named by id, else by type, user, currency */
	Numeric		add_debits;		/* of the whole call; NULL: nothing */
	Numeric		add_credits;
	Numeric		running_debits; /* before the call; runs with the journal */
	Numeric		running_credits;
	int			mark_opened;	/* bits to set in account.opened */
	int			seen;			/* number of the S that the row was read with */
	int			transactions;	/* of the call that move it; 0 is as good as 1 */
} PostingAccount;

/* All that a user of the call has, as S sees it. */
typedef struct PostingUser
{
	pg_uuid_t	user_id;
	LedgerAccount *accounts;
	int			naccounts;
} PostingUser;

typedef struct PostingLine
{
	int			debit;			/* index into accounts */
	int			credit;
	Numeric		amount;			/* checked and normalised */
} PostingLine;

typedef struct PostingRequest
{
	/* header */
	const char *operation;		/* the SQL function's name, for messages */
	const char *type;
	bool		has_user;
	pg_uuid_t	user_id;
	bool		has_reference;
	pg_uuid_t	reference_id;
	const char *reference_type;
	text	   *description;
	Jsonb	   *metadata;
	bool		has_effective_at;
	TimestampTz effective_at;
	int64		reverses;		/* 0: not a reversal */
	const char *key_text;		/* canonical key; NULL: no deduplication */
	const char *conflict_hint;	/* NULL: the usual one */
	bool		allow_reserved; /* may touch pending_investment */
	bool		is_opening;		/* posted by the hook itself */
	bool		raw_amounts;	/* to be checked once the accounts are known */
	bool		is_batch;		/* lines are transactions of their own: see batch.c */

	/* postings */
	PostingAccount *accounts;
	int			naccounts;
	int			max_accounts;
	struct HTAB *names;			/* of accounts, once there are many */
	PostingLine *lines;
	int			nlines;
	int			max_lines;

	/* result */
	int64		transaction_id;
	bool		replayed;
	TimestampTz created_at;

	/* while the call runs */
	const LedgerSettings *settings;
	Store	   *store;			/* ledger.accounts */
	Store	   *journal;
	Snapshot	snapshot;		/* S: the one that rows are found with */
	int			nsnapshots;		/* how many there were */
	PostingUser *users;			/* by user, if the hook has read them; else NULL */
	int			nusers;
	bool		folded;			/* add_debits and add_credits are known */
	bool		changed;		/* the hook has changed a row */
	pg_uuid_t	key;
	int		   *order;			/* accounts in the order of their locks */
	bool		moved;			/* some account had been updated since S */
	bool		locked;			/* the accounts were locked before */
	void	   *hook_state;		/* what the hook knows from lock to written */
} PostingRequest;

/*
 * What a legacy table adds to a posting. lock: before any account is locked,
 * locks the legacy rows of the call's users and opens who is not opened; true:
 * S must be taken anew, then it is called again. lock_user: only locks a
 * user's legacy rows, for who opens an account of his and may post to it in
 * the same transaction. written: the postings are in the journal, visible to
 * the next command. Set once, by mirror.c.
 */
typedef struct PostingHook
{
	bool		(*lock) (PostingRequest *request);
	void		(*lock_user) (const pg_uuid_t *user_id);
	void		(*written) (PostingRequest *request);
} PostingHook;

extern PostingHook ledger_posting_hook;

extern PostingRequest *ledger_posting_new(const char *operation, const char *type);
extern int	ledger_posting_account(PostingRequest *request, const char *type,
								   const pg_uuid_t *user_id, const char *currency);
extern int	ledger_posting_new_account(PostingRequest *request, const char *type,
									   const pg_uuid_t *user_id);
extern int	ledger_posting_account_id(PostingRequest *request, int64 id);
extern void ledger_posting_line(PostingRequest *request, int debit, int credit, Numeric amount);

/* Returns the transaction's id, of this or of the replayed request. */
extern int64 ledger_post(PostingRequest *request);

/* false: a replay, transaction_id is set. Else the accounts are locked. */
extern bool ledger_posting_lock(PostingRequest *request);
extern bool ledger_posting_replayed_meanwhile(PostingRequest *request);
extern int64 ledger_posting_apply(PostingRequest *request);
extern void ledger_posting_cancel(PostingRequest *request);

/* Why no posting is taken under these settings; NULL: they are. */
extern LedgerRefusal *ledger_posting_refuse_state(const LedgerSettings *settings);

/* Whether one of the accounts, known by now, holds reserved money. */
extern bool ledger_posting_touches_reserved(const PostingRequest *request);

/* Of the users that the hook has read. */
extern const PostingUser *ledger_posting_user(const PostingRequest *request,
											  const pg_uuid_t *user_id);

/* The net change of account n by the call, in its normal direction. */
extern Numeric ledger_posting_change(const PostingRequest *request, int n);

/* Whether the caller may be shown amounts in an error's detail. */
extern bool ledger_may_show_amounts(void);

/* ---- steps of a call, and its checks, for batch.c ------------------------------ */

extern void ledger_posting_begin(PostingRequest *request);
extern void ledger_posting_end(PostingRequest *request);

/* An account, not looked for among those there are already; its index. */
extern int	ledger_posting_append_account(PostingRequest *request, const LedgerAccountType *type,
										  const pg_uuid_t *user_id,
										  const LedgerCurrency *currency);

/* Takes the snapshot S anew. */
extern void ledger_posting_take_snapshot(PostingRequest *request);

/* Everybody's order of accounts, for qsort() of pointers: user, type, currency. */
extern int	ledger_posting_compare(const void *a, const void *b);

/* Opens accounts that are not there, in everybody's order, before any row is locked. */
extern void ledger_posting_open_missing(PostingRequest *request, PostingAccount **missing, int n);

/*
 * Locks the accounts in everybody's order, those with an id 0 left out, and
 * reads them in their newest version; moved says whether some row had been
 * updated since S.
 */
extern void ledger_posting_lock_accounts(PostingRequest *request);

/* Updates the accounts, which are locked, by what the lines move. */
extern void ledger_posting_update_accounts(PostingRequest *request);

/* Of two accounts, which is locked first: below zero if x. */
extern int	ledger_posting_lock_order(const LedgerAccount *x, const LedgerAccount *y);

/* The account as it is after amount is added to its debits or credits. */
extern void ledger_posting_add(LedgerAccount *account, bool debit, Numeric amount);

/*
 * Why not; NULL: nothing is wrong. Replay: with the transaction that has the
 * request's key. Limit: account is as it would be, from these totals.
 */
extern bool ledger_same_user(bool has_a, const pg_uuid_t *a, bool has_b, const pg_uuid_t *b);
extern LedgerRefusal *ledger_posting_refuse_replay(PostingRequest *request, int64 id);
extern LedgerRefusal *ledger_posting_refuse_conflict(const PostingRequest *request,
													 const char *detail);
extern const char *ledger_posting_difference(PostingRequest *request, const JournalRow *rows,
											 int nrows);
extern LedgerRefusal *ledger_posting_refuse_type(const char *type);
extern LedgerRefusal *ledger_posting_refuse_unknown(int64 id);
extern LedgerRefusal *ledger_posting_refuse_account(const PostingRequest *request,
													const LedgerAccount *account);
extern LedgerRefusal *ledger_posting_refuse_line(const PostingRequest *request, int n);
extern LedgerRefusal *ledger_posting_refuse_limit(const LedgerAccount *account,
												  Numeric debits, Numeric credits);

#endif							/* LEDGER_POSTING_H */
