//! Connections to a store's database, and what an error of PostgreSQL means to the port.
//!
//! The rules: everything but VACUUM runs inside a transaction whose settings are set within it, so that values read alike whatever the
//! role's and the database's defaults are, and a pooler in between may hand out connections as it likes. Row security is off for us:
//! where it would hide records, PostgreSQL answers with an error instead of fewer records.
//!
//! If we die with a transaction open, the server rolls it back.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lethe_stages::ports::PortError;
use sqlx::{Connection, Postgres, Transaction, postgres::PgConnection};

use super::url::Server;

/// How long a server may take to answer a new connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Text of values depends on these settings; locks are not waited for without end, because everybody else would wait behind us; and no plan
/// is compiled: whoever looks past the indexes makes every plan seem dear enough for that. They are made in the message that begins the
/// transaction.
macro_rules! begun {
    ($kind:literal) => {
        concat!(
            "BEGIN ISOLATION LEVEL ",
            $kind,
            "; SELECT set_config(name, value, true) FROM (VALUES
                ('search_path', 'pg_catalog'), ('row_security', 'off'), ('lock_timeout', '10s'), ('client_min_messages', 'warning'),
                ('DateStyle', 'ISO, YMD'), ('IntervalStyle', 'postgres'), ('TimeZone', 'UTC'), ('bytea_output', 'hex'),
                ('extra_float_digits', '1'), ('lc_monetary', 'C'), ('xmlbinary', 'base64'),
                ('jit', 'off')
            ) AS settings (name, value)"
        )
    };
}

/// A transaction that only reads, under one snapshot.
pub(super) const READING: &str = begun!("REPEATABLE READ, READ ONLY");
/// A transaction that writes.
pub(super) const WRITING: &str = begun!("READ COMMITTED, READ WRITE");

/// A new connection.
pub(super) async fn connect(server: &Server) -> Result<PgConnection, PortError> {
    let doing = format!("connect to {}", server.shown());
    let options = server.options()?;
    match tokio::time::timeout(CONNECT_TIMEOUT, at_once(PgConnection::connect_with(&options))).await {
        Ok(connected) => connected.map_err(failed(doing)),
        Err(_) => Err(PortError::Transient(format!("{doing}: no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
    }
}

/// Connects, with [`lethe_nodelay::set`] as soon as there is a socket: TLS and the password's proof are several messages, of which each
/// would wait for an acknowledgement.
async fn at_once<T>(connecting: impl Future<Output = T>) -> T {
    tokio::pin!(connecting);
    let mut pause = Duration::from_millis(1);
    loop {
        tokio::select! {
            connected = &mut connecting => {
                lethe_nodelay::set();
                return connected;
            }
            () = tokio::time::sleep(pause) => lethe_nodelay::set(),
        }
        pause *= 2;
    }
}

/// The connection that a store's verbs take one after the other. A verb that fails, or is given up, does not give it back.
#[derive(Default)]
pub(super) struct Kept(Mutex<Option<PgConnection>>);

impl Kept {
    /// The connection that was given back last, if it still answers, else a new one.
    pub(super) async fn take(&self, server: &Server) -> Result<PgConnection, PortError> {
        let kept = self.hold(None);
        if let Some(mut connection) = kept
            && answers(&mut connection).await
        {
            return Ok(connection);
        }
        connect(server).await
    }

    /// Gives a connection back. What a verb did not commit is rolled back before, so that nobody waits for its locks.
    pub(super) async fn give_back(&self, mut connection: PgConnection) {
        if answers(&mut connection).await {
            drop(self.hold(Some(connection)));
        }
    }

    fn hold(&self, connection: Option<PgConnection>) -> Option<PgConnection> {
        std::mem::replace(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), connection)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let (Some(connection), Ok(runtime)) = (self.hold(None), tokio::runtime::Handle::try_current()) {
            runtime.spawn(close(connection));
        }
    }
}

/// Asks for an answer, behind the rollback of a transaction that was dropped.
async fn answers(connection: &mut PgConnection) -> bool {
    matches!(tokio::time::timeout(CONNECT_TIMEOUT, connection.ping()).await, Ok(Ok(())))
}

/// Begins a transaction ([`READING`] or [`WRITING`]) in which values read alike everywhere.
pub(super) async fn begin<'c>(
    connection: &'c mut PgConnection,
    kind: &'static str,
) -> Result<Transaction<'c, Postgres>, PortError> {
    connection.begin_with(kind).await.map_err(failed("begin a transaction"))
}

/// Ends a connection in the ordinary way. What it did is durable already, so an error says nothing.
pub(super) async fn close(connection: PgConnection) {
    drop(connection.close().await);
}

/// Commits a transaction of the store. The ledger's transactions are committed in one place of their own.
#[allow(clippy::disallowed_methods, reason = "the store's own transaction, which no other crate sees")]
pub(super) async fn commit(tx: Transaction<'_, Postgres>, doing: &str) -> Result<(), PortError> {
    tx.commit().await.map_err(failed(doing))
}

/// The port's error for one of PostgreSQL's, with what was being done. Its detail is left out: it may repeat records.
pub(super) fn failed(doing: impl Into<String>) -> impl FnOnce(sqlx::Error) -> PortError {
    let doing = doing.into();
    move |error| match &error {
        sqlx::Error::Database(inner) => {
            let code = inner.code().unwrap_or_default();
            let said = format!("{doing}: {} ({code})", inner.message());
            // Connection, rollback, resources, intervention, system; a lock that was not had in time.
            let passing = ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class)) || code == "55P03";
            if passing { PortError::Transient(said) } else { PortError::Permanent(said) }
        }
        sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => PortError::Transient(format!("{doing}: {error}")),
        sqlx::Error::Tls(inner) => PortError::Permanent(format!("{doing}: TLS: {inner}")),
        other => PortError::Permanent(format!("{doing}: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_away_is_a_passing_failure() {
        let away = sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert!(matches!(failed("ask")(away), PortError::Transient(_)));
        let tls = sqlx::Error::Tls("certificate".into());
        assert!(matches!(failed("ask")(tls), PortError::Permanent(said) if said.contains("TLS")));
    }
}
