//! Questions to the trail: the entries that somebody asks for, page by page, in the order in which they were sealed.
//!
//! The rule: a page is read in bounded time, however large the trail and whatever is asked. It is driven by one index, the one that is
//! thinnest just here; what else is asked is compared on what that index finds, so many entries and no more. An answer says how far it
//! looked, and going on from there leaves nothing out and shows nothing twice: a leaf's number never changes, and numbers only grow.
//!
//! Only reads, so nothing is left if we die in it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    log::unsealed,
    personal::Opener,
    rows::Cells,
    sql::{Sql, Value},
    trail::{Actor, EventType, TrailEntry, entry},
};

/// The most entries of a page.
pub const PAGE_MAX: usize = 10_000;
/// How many entries the rest of a question is compared on in one page.
const LOOKED_MAX: usize = 50_000;
/// The same where their whole text has to be read.
const READ_MAX: usize = 10_000;
/// How many are looked at first, to see which index is the thinnest, and the most at once after that.
const LOOK_FIRST: usize = 500;
const LOOK_MOST: usize = 20_000;
/// An index is asked for each value; for more values than this another one is used.
const VALUES_MAX: usize = 8;
/// Leaves of one row of `leaf_blocks`.
const BLOCK: i64 = 1024;

lethe_stages::text_enum! {
    /// How an entry ended.
    TrailOutcome {
        /// It was done.
        Done = "DONE",
        /// A gate allowed it.
        Allowed = "ALLOWED",
        /// It waits for somebody.
        Pending = "PENDING",
        /// It was refused.
        Blocked = "BLOCKED",
        /// It was tried and failed.
        Failed = "FAILED",
    }
}

/// What is asked; what is empty does not filter.
#[derive(Debug, Clone, Default)]
pub struct TrailQuery {
    /// Of this tenant, as entries name it: an id, or `__system__`.
    pub tenant_id: Option<String>,
    /// About this plane.
    pub plane_id: Option<Uuid>,
    /// Of this offboarding.
    pub offboarding_id: Option<Uuid>,
    /// About this approval.
    pub approval_id: Option<Uuid>,
    /// Of one of these types.
    pub event_types: Vec<EventType>,
    /// That ended in one of these ways.
    pub outcomes: Vec<TrailOutcome>,
    /// By this actor.
    pub actor: Option<Actor>,
    /// Decided under these policies.
    pub policy_revision: Option<String>,
    /// In which a value, a reason or an actor contains this, in whatever case.
    pub text: Option<String>,
    /// Dated then or later.
    pub from: Option<DateTime<Utc>>,
    /// Dated before.
    pub until: Option<DateTime<Utc>>,
    /// Whether the newest come first.
    pub newest: bool,
    /// Where the page before ended: beyond this leaf, in the order of the pages.
    pub after: Option<i64>,
    /// At most so many, up to [`PAGE_MAX`].
    pub limit: usize,
}

/// An entry with its leaf's number.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// The leaf's number.
    pub leaf_index: i64,
    /// How it ended.
    pub outcome: TrailOutcome,
    /// The entry.
    #[serde(flatten)]
    pub entry: TrailEntry,
}

/// A page of an answer.
#[derive(Debug, Clone, Default)]
pub struct TrailPage {
    /// The entries.
    pub rows: Vec<Found>,
    /// Where to go on ([`TrailQuery::after`]); `None`: there is nothing more in what is sealed.
    pub next: Option<i64>,
    /// How many entries were compared.
    pub looked: u64,
    /// Entries that are asked for perhaps and have no leaf yet, counted up to a thousand.
    pub unsealed: i64,
}

/// Which index finds the entries of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    Order,
    Tenant,
    Plane,
    Offboarding,
    Approval,
    Policy,
    Type,
    Outcome,
    Actor,
}

/// What is bound, by number: `$1` and `$2` the first and the last leaf, `$3` how many to look at, `$4`… what is asked, `$13` the one value of
/// an index that is asked value by value.
macro_rules! look {
    ($doing:literal, [$lite_index:literal, $lite:literal], [$partial:literal, $key:literal, $from:literal, $to:literal], $order:literal, $last:literal) => {
        Sql::new(
            $doing,
            [
                concat!(
                    "WITH looked AS MATERIALIZED (SELECT * FROM leaves ", $lite_index, " WHERE ", $lite,
                    " leaf_index BETWEEN $1 AND $2 ORDER BY leaf_index ", $order, " LIMIT $3)
                     SELECT e.looked, e.last, m.leaf_index, m.place, m.outcome FROM (SELECT count(*) AS looked, ", $last, "(leaf_index) AS last FROM looked) AS e
                     LEFT JOIN (SELECT leaf_index, place, outcome FROM looked WHERE ($4 IS NULL OR tenant_id = $4) AND ($5 IS NULL OR plane_id = $5)
                        AND ($6 IS NULL OR offboarding_id = $6) AND ($7 IS NULL OR approval_id = $7) AND ($8 IS NULL OR policy_revision = $8)
                        AND ($9 IS NULL OR event_type IN (SELECT value FROM json_each($9)))
                        AND ($10 IS NULL OR outcome IN (SELECT value FROM json_each($10)))
                        AND ($11 IS NULL OR at >= $11) AND ($12 IS NULL OR at < $12)
                        AND ($13 IS NULL OR lower(hex(actor_tag)) IN (SELECT value FROM json_each($13)))) AS m ON true
                     ORDER BY m.leaf_index ", $order
                ),
                concat!(
                    "WITH looked AS MATERIALIZED (SELECT * FROM leaves WHERE ", $partial, $from, " AND ", $to,
                    " ORDER BY ", $key, " ", $order, " LIMIT $3)
                     SELECT e.looked, e.last, m.leaf_index, m.place, m.outcome FROM (SELECT count(*) AS looked, ", $last, "(leaf_index) AS last FROM looked) AS e
                     LEFT JOIN (SELECT leaf_index, place, outcome FROM looked WHERE ($4::text IS NULL OR tenant_id = $4) AND ($5::uuid IS NULL OR plane_id = $5)
                        AND ($6::uuid IS NULL OR offboarding_id = $6) AND ($7::text IS NULL OR approval_id = $7)
                        AND ($8::text IS NULL OR policy_revision = $8)
                        AND ($9::text[] IS NULL OR event_type = ANY($9)) AND ($10::text[] IS NULL OR outcome = ANY($10))
                        AND ($11::timestamptz IS NULL OR at >= $11) AND ($12::timestamptz IS NULL OR at < $12)
                        AND ($13::text[] IS NULL OR encode(actor_tag, 'hex') = ANY($13))) AS m ON true
                     ORDER BY m.leaf_index ", $order
                ),
            ],
        )
    };
}

/// The same forwards and backwards. On SQLite the index is named. On PostgreSQL the condition and the order are those of one index and of no
/// other: of a column that is equal to something the order would be dropped, and the planner might walk along the leaves instead.
macro_rules! looks {
    ($($forwards:ident, $backwards:ident = [$lite_index:literal, $lite:literal],
        [$partial:literal, $key:literal, $key_down:literal, $from:literal, $to:literal];)*) => {
        $(
            static $forwards: Sql =
                look!("query the trail", [$lite_index, $lite], [$partial, $key, $from, $to], "", "max");
            static $backwards: Sql =
                look!("query the trail", [$lite_index, $lite], [$partial, $key_down, $from, $to], "DESC", "min");
        )*
        static LOOKS: &[&Sql] = &[$(&$forwards, &$backwards),*];
    };
}

looks! {
    ORDER, ORDER_DOWN = ["", ""], ["", "leaf_index", "leaf_index", "leaf_index >= $1", "leaf_index <= $2"];
    TENANT, TENANT_DOWN = ["INDEXED BY leaves_by_tenant", "tenant_id = $4 AND"],
        ["", "tenant_id, leaf_index", "tenant_id DESC, leaf_index", "(tenant_id, leaf_index) >= ($4, $1)", "(tenant_id, leaf_index) <= ($4, $2)"];
    PLANE, PLANE_DOWN = ["INDEXED BY leaves_by_plane", "plane_id = $5 AND"],
        ["plane_id IS NOT NULL AND ", "plane_id, leaf_index", "plane_id DESC, leaf_index", "(plane_id, leaf_index) >= ($5, $1)", "(plane_id, leaf_index) <= ($5, $2)"];
    OFFBOARDING, OFFBOARDING_DOWN = ["INDEXED BY leaves_by_offboarding", "offboarding_id = $6 AND"],
        ["offboarding_id IS NOT NULL AND ", "offboarding_id, leaf_index", "offboarding_id DESC, leaf_index", "(offboarding_id, leaf_index) >= ($6, $1)", "(offboarding_id, leaf_index) <= ($6, $2)"];
    APPROVAL, APPROVAL_DOWN = ["INDEXED BY leaves_by_approval", "approval_id = $7 AND"],
        ["approval_id IS NOT NULL AND ", "approval_id, leaf_index", "approval_id DESC, leaf_index", "(approval_id, leaf_index) >= ($7, $1)", "(approval_id, leaf_index) <= ($7, $2)"];
    POLICY, POLICY_DOWN = ["INDEXED BY leaves_by_policy", "policy_revision = $8 AND"],
        ["policy_revision IS NOT NULL AND ", "policy_revision, leaf_index", "policy_revision DESC, leaf_index", "(policy_revision, leaf_index) >= ($8, $1)", "(policy_revision, leaf_index) <= ($8, $2)"];
    TYPE, TYPE_DOWN = ["INDEXED BY leaves_by_type", "event_type = $14 AND"],
        ["", "event_type, leaf_index", "event_type DESC, leaf_index", "(event_type, leaf_index) >= ($14, $1)", "(event_type, leaf_index) <= ($14, $2)"];
    OUTCOME, OUTCOME_DOWN = ["INDEXED BY leaves_by_outcome", "outcome = $14 AND outcome <> 'DONE' AND"],
        ["outcome <> 'DONE' AND ", "outcome, leaf_index", "outcome DESC, leaf_index", "(outcome, leaf_index) >= ($14, $1)", "(outcome, leaf_index) <= ($14, $2)"];
    ACTOR, ACTOR_DOWN = ["INDEXED BY leaves_by_actor", "actor_tag = $14 AND"],
        ["actor_tag IS NOT NULL AND ", "actor_tag, leaf_index", "actor_tag DESC, leaf_index", "(actor_tag, leaf_index) >= ($14, $1)", "(actor_tag, leaf_index) <= ($14, $2)"];
}

static ENTRIES: Sql = Sql::new(
    "read entries of the trail",
    [
        "SELECT t.*, (SELECT json_group_array(json_object('field', v.field, 'key_id', v.key_id, 'sealed', hex(v.sealed), 'tag', hex(v.tag),
            'key', hex(k.key))) FROM trail_values v LEFT JOIN personal_keys k ON k.id = v.key_id WHERE v.event_id = t.event_id) AS vals
         FROM trail t WHERE t.place IN (SELECT CAST(value AS INTEGER) FROM json_each($1))",
        "SELECT t.*, (SELECT json_agg(json_build_object('field', v.field, 'key_id', v.key_id, 'sealed', encode(v.sealed, 'hex'),
            'tag', encode(v.tag, 'hex'), 'key', encode(k.key, 'hex')))
            FROM trail_values v LEFT JOIN personal_keys k ON k.id = v.key_id WHERE v.event_id = t.event_id) AS vals
         FROM trail t WHERE t.place = ANY($1::text[]::bigint[])",
    ],
);
static SIZE: Sql = Sql::new("read the log's size", ["SELECT size FROM log"]);
static FIRST: Sql = Sql::new(
    "find the first leaf of a time",
    ["SELECT block AS found FROM leaf_blocks WHERE at_max >= $1 ORDER BY block LIMIT 1"],
);
static LAST: Sql = Sql::new(
    "find the last leaf of a time",
    ["SELECT block AS found FROM leaf_blocks WHERE at_min < $1 ORDER BY block DESC LIMIT 1"],
);
static UNSEALED: Sql = Sql::new(
    "count what has no leaf yet",
    [
        concat!(
            "SELECT count(*) AS entries FROM (SELECT 1 FROM ",
            unsealed!(),
            " AND ($1 IS NULL OR t.tenant_id = $1) LIMIT 1000) AS waiting"
        ),
        concat!(
            "SELECT count(*) AS entries FROM (SELECT 1 FROM ",
            unsealed!(),
            " AND ($1::text IS NULL OR t.tenant_id = $1) LIMIT 1000) AS waiting"
        ),
    ],
);

#[cfg(feature = "testing")]
static OTHERS: &[&Sql] = &[&ENTRIES, &SIZE, &FIRST, &LAST, &UNSEALED];

/// Every statement of this module.
#[cfg(feature = "testing")]
pub(crate) static STATEMENTS: &[&[&Sql]] = &[LOOKS, OTHERS];

impl Driver {
    fn sql(self, newest: bool) -> &'static Sql {
        let at = match self {
            Driver::Order => 0,
            Driver::Tenant => 1,
            Driver::Plane => 2,
            Driver::Offboarding => 3,
            Driver::Approval => 4,
            Driver::Policy => 5,
            Driver::Type => 6,
            Driver::Outcome => 7,
            Driver::Actor => 8,
        };
        LOOKS[at * 2 + usize::from(newest)]
    }
}

/// How an actor is looked for.
struct ActorFilter {
    /// By the tags that leaves have, one for each tenant's key that is not destroyed; hexadecimal.
    tags: Option<Vec<String>>,
}

/// What was found on a stretch of leaves.
struct Stretch {
    /// Leaves that fit, with their entries' places, in the order of the pages.
    fitting: Vec<(i64, i64, TrailOutcome)>,
    /// The last leaf up to which nothing was passed over; `None`: to the end of the stretch.
    seen: Option<i64>,
    looked: usize,
}

impl Tx {
    /// A page of the entries that are asked for.
    pub async fn query_trail(&mut self, query: &TrailQuery) -> Result<TrailPage, Fault> {
        self.write_trail().await?;
        let mut page = TrailPage { unsealed: self.unsealed(query.tenant_id.as_deref()).await?, ..TrailPage::default() };
        let actor = self.actor_filter(query).await?;
        let Some((mut first, mut last)) = self.bounds(query).await? else { return Ok(page) };
        let limit = query.limit.clamp(1, PAGE_MAX);
        let reads = query.text.is_some();
        let (mut budget, mut chunk) = (if reads { READ_MAX } else { LOOKED_MAX }, LOOK_FIRST.max(limit.min(LOOK_MOST)));
        let mut driver = None;
        loop {
            let (chosen, stretch) = match driver {
                None => self.thinnest(query, &actor, (first, last), chunk.min(budget)).await?,
                Some(driver) => (driver, self.look(driver, query, &actor, (first, last), chunk.min(budget)).await?),
            };
            driver = Some(chosen);
            page.looked += stretch.looked as u64;
            budget = budget.saturating_sub(stretch.looked);
            for (index, read) in self.read(&stretch.fitting, limit - page.rows.len(), query).await? {
                if let Some(found) = read {
                    page.rows.push(found);
                }
                if page.rows.len() == limit {
                    // Somebody may go on to find that there is nothing more; nobody is told so by mistake.
                    page.next =
                        (stretch.seen.is_some() || stretch.fitting.last().is_some_and(|last| last.0 != index)).then_some(index);
                    return Ok(page);
                }
            }
            let Some(seen) = stretch.seen else { return Ok(page) };
            if budget == 0 {
                page.next = Some(seen);
                return Ok(page);
            }
            if query.newest {
                last = seen - 1
            } else {
                first = seen + 1
            }
            chunk = (chunk * 4).min(LOOK_MOST);
        }
    }

    /// How to look for the actor that is asked for.
    async fn actor_filter(&mut self, query: &TrailQuery) -> Result<ActorFilter, Fault> {
        let Some(actor) = &query.actor else { return Ok(ActorFilter { tags: None }) };
        let tenant = query.tenant_id.as_ref().and_then(|tenant| tenant.parse().ok());
        let tags = self.actor_tags(actor, tenant).await?;
        Ok(ActorFilter { tags: Some(tags.iter().map(hex::encode).collect()) })
    }

    async fn unsealed(&mut self, tenant_id: Option<&str>) -> Result<i64, Fault> {
        let row = self.sql(&UNSEALED).bind(Value::Text(tenant_id.map(str::to_owned))).first().await?;
        Cells::new(&row, "trail", "entries").get("entries")
    }

    /// The first and the last leaf that may be asked for; `None`: there is none.
    async fn bounds(&mut self, query: &TrailQuery) -> Result<Option<(i64, i64)>, Fault> {
        let row = self.sql(&SIZE).first().await?;
        let (mut first, mut last) = (0, Cells::new(&row, "log", "size").get::<i64>("size")? - 1);
        if let Some(from) = query.from {
            let Some(row) = self.sql(&FIRST).bind(from).optional().await? else { return Ok(None) };
            first = Cells::new(&row, "leaf_blocks", "found").get::<i64>("found")? * BLOCK;
        }
        if let Some(until) = query.until {
            let Some(row) = self.sql(&LAST).bind(until).optional().await? else { return Ok(None) };
            last = last.min(Cells::new(&row, "leaf_blocks", "found").get::<i64>("found")? * BLOCK + BLOCK - 1);
        }
        match query.after {
            Some(after) if query.newest => last = last.min(after.saturating_sub(1)),
            Some(after) => first = first.max(after.saturating_add(1)),
            None => {}
        }
        Ok((first <= last).then_some((first, last)))
    }

    /// Looks along every index that could be used, and answers the one that comes farthest with what it found.
    async fn thinnest(
        &mut self,
        query: &TrailQuery,
        actor: &ActorFilter,
        between: (i64, i64),
        most: usize,
    ) -> Result<(Driver, Stretch), Fault> {
        let mut best: Option<(Driver, Stretch)> = None;
        for driver in drivers(query, actor) {
            let stretch = self.look(driver, query, actor, between, most).await?;
            let farther = |best: &Stretch| match (stretch.seen, best.seen) {
                (None, best) => best.is_some() || stretch.looked == 0,
                (Some(seen), Some(best)) => {
                    if query.newest {
                        seen < best
                    } else {
                        seen > best
                    }
                }
                (Some(_), None) => false,
            };
            if best.as_ref().is_none_or(|(_, best)| farther(best)) {
                best = Some((driver, stretch));
            }
            // Everything was found: no other index has less to show.
            if best.as_ref().is_some_and(|(_, best)| best.seen.is_none()) {
                break;
            }
        }
        Ok(best.expect("there is always the order of the leaves"))
    }

    /// Looks at up to `most` leaves that an index has between two leaves.
    async fn look(
        &mut self,
        driver: Driver,
        query: &TrailQuery,
        actor: &ActorFilter,
        between: (i64, i64),
        most: usize,
    ) -> Result<Stretch, Fault> {
        let values: Vec<Option<Value>> = match driver {
            Driver::Type => query.event_types.iter().map(|kind| Some(Value::from(kind.as_str()))).collect(),
            Driver::Outcome => query.outcomes.iter().map(|outcome| Some(Value::from(outcome.as_str()))).collect(),
            Driver::Actor => actor.tags.iter().flatten().map(|tag| Some(Value::Bytes(hex::decode(tag).ok()))).collect(),
            _ => vec![None],
        };
        let mut stretch = Stretch { fitting: Vec::new(), seen: None, looked: 0 };
        for value in values {
            let texts = |texts: Vec<String>| Value::Texts((!texts.is_empty()).then_some(texts));
            let look = self.sql(driver.sql(query.newest)).bind(between.0).bind(between.1).bind(most as i64);
            let look = look.bind(Value::Text(query.tenant_id.clone())).bind(query.plane_id).bind(query.offboarding_id);
            let look = look.bind(query.approval_id.map(|id| id.to_string())).bind(Value::Text(query.policy_revision.clone()));
            let look = look.bind(texts(query.event_types.iter().map(|kind| kind.as_str().to_owned()).collect()));
            let look = look.bind(texts(query.outcomes.iter().map(|outcome| outcome.as_str().to_owned()).collect()));
            let look = look.bind(query.from).bind(query.until).bind(Value::Texts(actor.tags.clone()));
            let look = if let Some(value) = value { look.bind(value) } else { look };
            for (number, row) in look.all().await?.iter().enumerate() {
                let cells = Cells::new(row, "leaves", "leaf_index");
                if number == 0 {
                    let looked = cells.get::<i64>("looked")? as usize;
                    stretch.looked += looked;
                    if looked >= most
                        && let Some(last) = cells.get::<Option<i64>>("last")?
                    {
                        let nearer = |seen: i64| if query.newest { seen.max(last) } else { seen.min(last) };
                        stretch.seen = Some(stretch.seen.map_or(last, nearer));
                    }
                }
                if let Some(leaf_index) = cells.get::<Option<i64>>("leaf_index")? {
                    stretch.fitting.push((leaf_index, cells.get("place")?, cells.parsed("outcome")?));
                }
            }
        }
        // What one value has beyond where another one was left is found again from there.
        if let Some(seen) = stretch.seen {
            stretch.fitting.retain(|(leaf_index, ..)| if query.newest { *leaf_index >= seen } else { *leaf_index <= seen });
        }
        stretch.fitting.sort_unstable();
        if query.newest {
            stretch.fitting.reverse();
        }
        Ok(stretch)
    }

    /// Reads the entries of leaves, until `most` of them are what is asked for; with each leaf, the entry if it is.
    async fn read(
        &mut self,
        leaves: &[(i64, i64, TrailOutcome)],
        most: usize,
        query: &TrailQuery,
    ) -> Result<Vec<(i64, Option<Found>)>, Fault> {
        let (mut read, mut fitting, mut opener) = (Vec::new(), 0, Opener::default());
        let needle = query.text.as_ref().map(|text| text.to_lowercase());
        let least = if needle.is_some() { LOOK_FIRST } else { 1 };
        for some in leaves.chunks(most.clamp(least, 1000)) {
            let places: Vec<String> = some.iter().map(|(_, place, _)| place.to_string()).collect();
            let mut entries = BTreeMap::new();
            for row in &self.sql(&ENTRIES).bind(places).all().await? {
                let place: i64 = Cells::new(row, "trail", "place").get("place")?;
                entries.insert(place, entry(row, &mut opener)?);
            }
            for (leaf_index, place, outcome) in some {
                let entry = entries.remove(place).ok_or_else(|| Fault::Unreadable {
                    table: "leaves",
                    column: "place",
                    id: leaf_index.to_string(),
                    message: format!("the trail has no entry at {place}"),
                })?;
                let fits = needle.as_ref().is_none_or(|needle| contains(&entry.body, needle) || contains(&entry.values, needle));
                let found = fits.then_some(Found { leaf_index: *leaf_index, outcome: *outcome, entry });
                read.push((*leaf_index, found));
                fitting += usize::from(fits);
                if fitting == most {
                    return Ok(read);
                }
            }
        }
        Ok(read)
    }
}

/// The indexes that may be used, those first that usually are the thinnest.
fn drivers(query: &TrailQuery, actor: &ActorFilter) -> Vec<Driver> {
    let few = |values: usize| (1..=VALUES_MAX).contains(&values);
    let mut drivers = Vec::new();
    let mut add = |driver, may| {
        if may {
            drivers.push(driver);
        }
    };
    add(Driver::Approval, query.approval_id.is_some());
    add(Driver::Offboarding, query.offboarding_id.is_some());
    add(Driver::Plane, query.plane_id.is_some());
    add(Driver::Actor, actor.tags.as_ref().is_some_and(|tags| few(tags.len())));
    add(Driver::Tenant, query.tenant_id.is_some());
    // What is simply done is in no index by outcome.
    add(Driver::Outcome, few(query.outcomes.len()) && !query.outcomes.contains(&TrailOutcome::Done));
    add(Driver::Type, few(query.event_types.len()));
    add(Driver::Policy, query.policy_revision.is_some());
    if drivers.is_empty() {
        drivers.push(Driver::Order);
    }
    drivers
}

/// Whether a value in it contains the text, which is in lower case. The names of fields are not looked at.
fn contains(value: &Json, needle: &str) -> bool {
    match value {
        Json::String(text) => text.to_lowercase().contains(needle),
        Json::Number(number) => number.to_string().contains(needle),
        Json::Array(values) => values.iter().any(|value| contains(value, needle)),
        Json::Object(fields) => fields.values().any(|value| contains(value, needle)),
        Json::Bool(_) | Json::Null => false,
    }
}

#[cfg(feature = "testing")]
impl Tx {
    /// For tests: how the database finds what is asked, for every index forwards and backwards.
    pub async fn trail_query_plans(&mut self, never_walk: bool) -> Result<Vec<(String, Vec<String>)>, Fault> {
        use sqlx::Row as _;
        let mut plans = Vec::new();
        if let (crate::sql::Inner::Postgres { tx, .. }, true) = (&mut self.inner, never_walk) {
            let set = sqlx::query("SET LOCAL enable_seqscan = off").execute(&mut **tx).await;
            set.map_err(Fault::database("choose how to plan"))?;
        }
        let failed = |error| Fault::database("explain a query")(error);
        for sql in LOOKS.iter().chain([&&ENTRIES, &&FIRST, &&LAST]) {
            let name = match sql.sqlite.split_once("INDEXED BY ") {
                Some((_, rest)) => rest.split(' ').next().unwrap_or_default().to_owned(),
                None => sql.doing.to_owned(),
            };
            let lines = match &mut self.inner {
                crate::sql::Inner::Sqlite(tx) => {
                    let rows =
                        sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", sql.sqlite))).fetch_all(&mut **tx).await;
                    rows.map_err(failed)?.iter().map(|row| row.get::<String, _>("detail")).collect()
                }
                crate::sql::Inner::Postgres { tx, .. } => {
                    // As the planner sees it when it knows no value: that plan is kept for all of them.
                    let places = (1..=14).rev().find(|place| sql.postgres.contains(&format!("${place}"))).unwrap_or(0);
                    let nulls = vec!["NULL"; places].join(", ");
                    let explain = format!(
                        "SET LOCAL plan_cache_mode = force_generic_plan; PREPARE asked AS {}; EXPLAIN (COSTS OFF) EXECUTE asked ({nulls});
                         DEALLOCATE asked",
                        sql.postgres
                    );
                    let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_all(&mut **tx).await;
                    rows.map_err(failed)?.iter().map(|row| row.get(0)).collect()
                }
            };
            plans.push((name, lines));
        }
        Ok(plans)
    }
}
