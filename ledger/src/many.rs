//! Many rows by one statement: what a batch costs is mostly the number of its statements.
//!
//! The rule: a statement is written once for few, fixed numbers of rows, so that it stays prepared; and each row must have changed
//! exactly one row of the ledger. It belongs to a transaction, so nothing of it happened if we die in it.

use sqlx::{AssertSqlSafe, Sqlite, query::Query, sqlite::SqliteArguments};

use crate::{db::Tx, fault::Fault};

/// Rows of one statement. Times the columns of the widest, it stays below what SQLite binds (32,766).
const ROWS_MAX: usize = 64;

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

impl Tx {
    /// Writes the rows, each bound by `bind` in the order of the columns.
    pub(crate) async fn write_many<T>(
        &mut self,
        many: &Many,
        rows: Vec<T>,
        bind: impl Fn(Statement, T) -> Statement,
    ) -> Result<(), Fault> {
        let mut rows = rows.into_iter();
        while rows.len() > 0 {
            let piece = piece(rows.len());
            let query = sqlx::query(AssertSqlSafe(many.text(piece)));
            let query = rows.by_ref().take(piece).fold(query, &bind);
            let done = query.execute(self.connection()).await.map_err(Fault::database(many.doing))?;
            if done.rows_affected() != piece as u64 {
                return Err(Fault::RowsAffected { doing: many.doing, changed: done.rows_affected(), wanted: piece as u64 });
            }
        }
        Ok(())
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
        0..8 => left,
        8..ROWS_MAX => 1 << left.ilog2(),
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
