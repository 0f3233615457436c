//! The PostgreSQL server that `tests/servers` started, for what a test makes there and leaves to be removed.

use std::sync::{LazyLock, mpsc};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// A variable that `tests/servers env` prints.
pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: this test needs a real server; run `tests/run`, or `tests/servers up` and then eval \"$(tests/servers env)\"")
    })
}

/// Runs a statement as the server's superuser, over a connection of its own.
pub async fn run(sql: &str) -> Result<(), sqlx::Error> {
    let mut db = PgConnection::connect(&variable("LETHE_TEST_POSTGRES")).await?;
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut db).await;
    db.close().await?;
    done.map(drop)
}

static LATER: LazyLock<mpsc::Sender<Vec<String>>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel::<Vec<String>>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        for sql in receiver.into_iter().flatten() {
            if let Err(error) = runtime.block_on(run(&sql)) {
                eprintln!("{sql}: {error}");
            }
        }
    });
    sender
});

/// Runs statements in their order, apart from every test: to drop a database is to wait for every backend of the server, also for one
/// whose client is a task of the runtime that would wait. What is left when the process ends goes with the server.
pub fn later(statements: Vec<String>) {
    LATER.send(statements).expect("the thread lives as long as the process");
}
