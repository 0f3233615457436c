//! Many rows by one statement, and many statements by one call: what a batch costs is mostly their number, and what a single step costs
//! is mostly the way to the database and back.
//!
//! The rule: each row must have changed exactly one row of the ledger. On SQLite a statement is written for few, fixed numbers of rows,
//! so that it stays prepared; on PostgreSQL it takes one array per column, whatever their length, and those over different tables are
//! parts of one statement.
//! It belongs to a transaction, so nothing of it happened if we die in it.

use futures::TryStreamExt;
use sqlx::{
    Arguments as _,
    types::chrono::{DateTime, Utc},
};
use sqlx::{
    AssertSqlSafe, Either, Executor, Postgres, Row as _, Sqlite, Transaction, postgres::PgArguments, sqlite::SqliteArguments,
};
use uuid::Uuid;

use crate::{
    db::Tx,
    fault::Fault,
    sql::{Inner, JsonText, JsonbText, Value, add_sqlite},
};

/// Rows of one statement. Times the columns of the widest, it stays below what SQLite binds (32,766).
const ROWS_MAX: usize = 64;
/// Statements of so few rows go to the database together with others.
const FEW: usize = 8;

/// A statement over a list of rows.
pub(crate) struct Many {
    /// In the present tense, for errors.
    pub(crate) doing: &'static str,
    /// What it writes.
    pub(crate) table: &'static str,
    /// What stands before the rows: `VALUES (?, …), (?, …)`, or `SELECT * FROM unnest($1, …)`.
    pub(crate) before: &'static str,
    /// What stands after.
    pub(crate) after: &'static str,
    /// PostgreSQL's types of a row's values.
    pub(crate) types: &'static [&'static str],
}

/// The rows of a statement while they are bound.
pub(crate) enum Places {
    /// One after the other.
    Sqlite(SqliteArguments),
    /// Column by column, with the next column's number.
    Postgres(Vec<Column>, usize),
}

/// The values of one column.
#[derive(Debug)]
pub(crate) enum Column {
    Ids(Vec<Option<Uuid>>),
    Texts(Vec<Option<String>>),
    Ints(Vec<Option<i64>>),
    Bools(Vec<Option<bool>>),
    Ats(Vec<Option<DateTime<Utc>>>),
    Jsons(Vec<Option<JsonbText>>),
    Documents(Vec<Option<JsonText>>),
    Bytes(Vec<Option<Vec<u8>>>),
}

impl Places {
    /// Binds the next place.
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        match &mut self {
            Places::Sqlite(arguments) => add_sqlite(arguments, value.into()).expect("our own values encode"),
            Places::Postgres(columns, next) => {
                columns[*next].push(value.into());
                *next = (*next + 1) % columns.len();
            }
        }
        self
    }
}

impl Column {
    fn of(postgres: &str) -> Self {
        match postgres {
            "uuid" => Column::Ids(Vec::new()),
            "text" => Column::Texts(Vec::new()),
            "bigint" => Column::Ints(Vec::new()),
            "boolean" => Column::Bools(Vec::new()),
            "timestamptz" => Column::Ats(Vec::new()),
            "jsonb" => Column::Jsons(Vec::new()),
            "json" => Column::Documents(Vec::new()),
            "bytea" => Column::Bytes(Vec::new()),
            other => unreachable!("no column of a batch is {other}"),
        }
    }

    fn push(&mut self, value: Value) {
        match (self, value) {
            (Column::Ids(column), Value::Id(id)) => column.push(id),
            (Column::Texts(column), Value::Text(text)) => column.push(text),
            (Column::Ints(column), Value::Int(number)) => column.push(number),
            (Column::Bools(column), Value::Bool(truth)) => column.push(truth),
            (Column::Ats(column), Value::At(at)) => column.push(at),
            (Column::Jsons(column), Value::Json(json)) => column.push(json.map(JsonbText)),
            (Column::Documents(column), Value::Document(json)) => column.push(json.map(JsonText)),
            (Column::Bytes(column), Value::Bytes(bytes)) => column.push(bytes),
            (column, value) => unreachable!("{value:?} belongs in no column like {column:?}"),
        }
    }

    fn add(self, to: &mut PgArguments) {
        let added = match self {
            Column::Ids(column) => to.add(column),
            Column::Texts(column) => to.add(column),
            Column::Ints(column) => to.add(column),
            Column::Bools(column) => to.add(column),
            Column::Ats(column) => to.add(column),
            Column::Jsons(column) => to.add(column),
            Column::Documents(column) => to.add(column),
            Column::Bytes(column) => to.add(column),
        };
        added.expect("our own values encode");
    }
}

/// A statement with its rows.
struct Piece {
    many: &'static Many,
    rows: usize,
    bind: Box<dyn FnOnce(Places) -> Places + Send>,
}

/// Statements to run in this order.
#[derive(Default)]
pub(crate) struct Script(Vec<Piece>);

impl Script {
    /// Adds what writes the rows, each bound by `bind` in the order of the columns.
    pub(crate) fn add<T: Send + 'static>(
        &mut self,
        many: &'static Many,
        rows: Vec<T>,
        bind: impl Fn(Places, T) -> Places + Clone + Send + 'static,
    ) {
        let mut rows = rows.into_iter();
        while rows.len() > 0 {
            let size = piece(rows.len());
            let piece: Vec<T> = rows.by_ref().take(size).collect();
            let bind = bind.clone();
            self.0.push(Piece {
                many,
                rows: piece.len(),
                bind: Box::new(move |statement| piece.into_iter().fold(statement, bind)),
            });
        }
    }
}

impl Tx {
    /// Runs a script.
    pub(crate) async fn run(&mut self, script: Script) -> Result<(), Fault> {
        let done = match &mut self.inner {
            Inner::Sqlite(tx) => run_on_sqlite(tx, script).await,
            Inner::Postgres { tx, prepared } => run_on_postgres(tx, *prepared, script).await,
        };
        done.inspect_err(|fault| {
            // Somebody else erased: whoever does this work again reads the keys anew.
            if fault.is_destroyed_key() {
                self.remembered.forget();
            }
        })
    }
}

async fn run_on_postgres(tx: &mut Transaction<'static, Postgres>, prepared: bool, script: Script) -> Result<(), Fault> {
    let mut parts: Vec<Part> = Vec::new();
    for piece in script.0 {
        // What was cut up for SQLite is one again.
        match parts.last_mut().filter(|last| std::ptr::eq(last.many, piece.many)) {
            Some(last) => last.add(piece),
            None => {
                let mut behind = parts.iter().rposition(|part| part.many.table == piece.many.table);
                if behind.is_some() && !piece.many.inserts() {
                    run_parts(tx, prepared, std::mem::take(&mut parts)).await?;
                    behind = None;
                }
                parts.push(Part::of(piece, behind));
            }
        }
    }
    run_parts(tx, prepared, parts).await
}

/// A statement's part in a larger one. Each sees the tables as they were before all of them, so no two may write the same rows.
struct Part {
    many: &'static Many,
    /// The part before it that writes the same table. New rows come when that one is through: a row that it settles may have to make
    /// place for one of them.
    behind: Option<usize>,
    rows: usize,
    columns: Vec<Column>,
}

impl Part {
    fn of(piece: Piece, behind: Option<usize>) -> Self {
        let columns = piece.many.types.iter().map(|name| Column::of(name)).collect();
        let mut part = Self { many: piece.many, behind, rows: 0, columns };
        part.add(piece);
        part
    }

    fn add(&mut self, piece: Piece) {
        let bound = (piece.bind)(Places::Postgres(std::mem::take(&mut self.columns), 0));
        let Places::Postgres(columns, _) = bound else { unreachable!("places stay what they are") };
        (self.columns, self.rows) = (columns, self.rows + piece.rows);
    }
}

async fn run_parts(tx: &mut Transaction<'static, Postgres>, prepared: bool, parts: Vec<Part>) -> Result<(), Fault> {
    let Some(first) = parts.first() else { return Ok(()) };
    let doing = if parts.len() == 1 { first.many.doing } else { "write a batch" };
    let wanted: Vec<(&'static str, u64)> = parts.iter().map(|part| (part.many.doing, part.rows as u64)).collect();
    let text = together(parts.iter().map(|part| (part.many, part.behind)));
    let mut arguments = PgArguments::default();
    parts.into_iter().flat_map(|part| part.columns).for_each(|column| column.add(&mut arguments));
    let query = sqlx::query_with(AssertSqlSafe(text), arguments).persistent(prepared);
    let changed = query.fetch_one(&mut **tx).await.map_err(Fault::database(doing))?;
    for (place, (doing, wanted)) in wanted.into_iter().enumerate() {
        let changed = changed.try_get::<i64, _>(place).map_err(Fault::database(doing))? as u64;
        if changed != wanted {
            return Err(Fault::RowsAffected { doing, changed, wanted });
        }
    }
    Ok(())
}

/// One statement that answers how many rows each of these has changed.
fn together<'m>(parts: impl Iterator<Item = (&'m Many, Option<usize>)>) -> String {
    let (mut texts, mut counts, mut first) = (Vec::new(), Vec::new(), 1);
    for (number, (many, behind)) in parts.enumerate() {
        texts.push(format!("part_{number} AS ({} RETURNING 1)", many.postgres(first, behind)));
        counts.push(format!("(SELECT count(*) FROM part_{number})"));
        first += many.types.len();
    }
    format!("WITH {} SELECT {}", texts.join(", "), counts.join(", "))
}

async fn run_on_sqlite(tx: &mut Transaction<'static, Sqlite>, script: Script) -> Result<(), Fault> {
    let mut pieces = script.0.into_iter().peekable();
    while let Some(first) = pieces.next() {
        let mut together = vec![first];
        // Not so many together that hardly any two texts are the same: those are prepared anew.
        while together[0].rows < FEW
            && let Some(next) = pieces.next_if(|next| next.rows < FEW)
        {
            together.push(next);
        }
        run_together(tx, together).await?;
    }
    Ok(())
}

async fn run_together(tx: &mut Transaction<'static, Sqlite>, pieces: Vec<Piece>) -> Result<(), Fault> {
    let text: Vec<String> = pieces.iter().map(|piece| piece.many.sqlite(piece.rows)).collect();
    let mut wanted = pieces.iter().map(|piece| (piece.many.doing, piece.rows as u64)).collect::<Vec<_>>().into_iter();
    let places = Places::Sqlite(SqliteArguments::default());
    let Places::Sqlite(arguments) = pieces.into_iter().fold(places, |places, piece| (piece.bind)(places)) else {
        unreachable!("places stay what they are")
    };
    let mut results = tx.fetch_many(sqlx::query_with(AssertSqlSafe(text.join("; ")), arguments));
    loop {
        let doing = wanted.as_slice().first().map_or("run a script", |(doing, _)| doing);
        match results.try_next().await.map_err(Fault::database(doing))? {
            Some(Either::Left(done)) => match wanted.next() {
                Some((_, rows)) if rows == done.rows_affected() => {}
                wanted => {
                    let (doing, wanted) = wanted.unwrap_or(("run a script", 0));
                    return Err(Fault::RowsAffected { doing, changed: done.rows_affected(), wanted });
                }
            },
            Some(Either::Right(_)) => {}
            None => break,
        }
    }
    match wanted.next() {
        None => Ok(()),
        Some((doing, wanted)) => Err(Fault::RowsAffected { doing, changed: 0, wanted }),
    }
}

impl Many {
    pub(crate) fn sqlite(&self, rows: usize) -> String {
        let row = format!("({})", vec!["?"; self.types.len()].join(", "));
        format!("{} VALUES {} {}", self.before, vec![row; rows].join(", "), self.after)
    }

    /// With its places from the `first` on; begun when another part of its statement is through, if one is named: a question to a part is
    /// answered when it has written all.
    pub(crate) fn postgres(&self, first: usize, behind: Option<usize>) -> String {
        let columns: Vec<String> = (first..).zip(self.types).map(|(place, name)| format!("${place}::{name}[]")).collect();
        let behind = behind.map(|part| format!("WHERE (SELECT count(*) FROM part_{part}) >= 0 ")).unwrap_or_default();
        format!("{} SELECT * FROM unnest({}) {behind}{}", self.before, columns.join(", "), self.after)
    }

    /// Whether its rows are new ones; where one may be there already, it is updated, and by one part of a statement only.
    fn inserts(&self) -> bool {
        self.before.starts_with("INSERT") && self.after.is_empty()
    }
}

/// How many of `left` rows go into the next statement: all of few, else a power of two.
fn piece(left: usize) -> usize {
    match left {
        0..FEW => left,
        FEW..ROWS_MAX => 1 << left.ilog2(),
        _ => ROWS_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_rows_takes_few_different_statements() {
        let mut sizes = std::collections::BTreeSet::new();
        for rows in 1..500 {
            let mut left = rows;
            while left > 0 {
                sizes.insert(piece(left));
                left -= piece(left);
            }
        }
        assert_eq!(Vec::from_iter(sizes), [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64]);
    }

    #[test]
    fn the_text_lists_a_group_of_places_per_row_or_an_array_per_column() {
        let many = Many { doing: "", table: "t", before: "INSERT INTO t", after: "", types: &["uuid", "text"] };
        assert_eq!(many.sqlite(2), "INSERT INTO t VALUES (?, ?), (?, ?) ");
        assert_eq!(many.postgres(1, None), "INSERT INTO t SELECT * FROM unnest($1::uuid[], $2::text[]) ");
        let other = Many { table: "s", before: "INSERT INTO s", ..many };
        assert_eq!(
            together([(&many, None), (&other, None)].into_iter()),
            "WITH part_0 AS (INSERT INTO t SELECT * FROM unnest($1::uuid[], $2::text[])  RETURNING 1), \
             part_1 AS (INSERT INTO s SELECT * FROM unnest($3::uuid[], $4::text[])  RETURNING 1) \
             SELECT (SELECT count(*) FROM part_0), (SELECT count(*) FROM part_1)"
        );
        assert!(together([(&other, None), (&many, Some(0))].into_iter()).contains(
            "part_1 AS (INSERT INTO t SELECT * FROM unnest($3::uuid[], $4::text[]) WHERE (SELECT count(*) FROM part_0) >= 0  RETURNING 1)"
        ));
    }
}
