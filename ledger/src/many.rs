//! Many rows by one statement, and many statements by one call: what a batch costs is mostly their number, and what a single step costs
//! is mostly the way to the database and back.
//!
//! The rule: a statement is written for few, fixed numbers of rows, so that it stays prepared; and each row must have changed exactly one
//! row of the ledger. It belongs to a transaction, so nothing of it happened if we die in it.

use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Either, Executor, Sqlite, query::Query, sqlite::SqliteArguments};

use crate::{db::Tx, fault::Fault};

/// Rows of one statement. Times the columns of the widest, it stays below what SQLite binds (32,766).
const ROWS_MAX: usize = 64;
/// Statements of so few rows go to the database together with others.
const FEW: usize = 8;

/// A statement over a list of rows.
pub(crate) struct Many {
    /// In the present tense, for errors.
    pub(crate) doing: &'static str,
    /// What stands before `VALUES (?, …), (?, …)`.
    pub(crate) before: &'static str,
    /// What stands after.
    pub(crate) after: &'static str,
    /// Values of a row.
    pub(crate) columns: usize,
}

/// A statement while its values are bound.
pub(crate) type Statement = Query<'static, Sqlite, SqliteArguments>;

/// A statement with its rows.
struct Piece {
    many: &'static Many,
    rows: usize,
    bind: Box<dyn FnOnce(Statement) -> Statement + Send>,
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
        bind: impl Fn(Statement, T) -> Statement + Clone + Send + 'static,
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
        let mut pieces = script.0.into_iter().peekable();
        while let Some(first) = pieces.next() {
            let mut together = vec![first];
            // Not so many together that hardly any two texts are the same: those are prepared anew.
            while together[0].rows < FEW
                && let Some(next) = pieces.next_if(|next| next.rows < FEW)
            {
                together.push(next);
            }
            self.run_together(together).await?;
        }
        Ok(())
    }

    async fn run_together(&mut self, pieces: Vec<Piece>) -> Result<(), Fault> {
        let text: Vec<String> = pieces.iter().map(|piece| piece.many.text(piece.rows)).collect();
        let mut wanted = pieces.iter().map(|piece| (piece.many.doing, piece.rows as u64)).collect::<Vec<_>>().into_iter();
        let statement = sqlx::query(AssertSqlSafe(text.join("; ")));
        let statement = pieces.into_iter().fold(statement, |statement, piece| (piece.bind)(statement));
        let mut results = self.connection().fetch_many(statement);
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
}

impl Many {
    fn text(&self, rows: usize) -> String {
        let row = format!("({})", vec!["?"; self.columns].join(", "));
        format!("{} VALUES {} {}", self.before, vec![row; rows].join(", "), self.after)
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
    fn the_text_lists_a_group_of_places_per_row() {
        let many = Many { doing: "", before: "INSERT INTO t", after: "RETURNING a", columns: 2 };
        assert_eq!(many.text(2), "INSERT INTO t VALUES (?, ?), (?, ?) RETURNING a");
    }
}
