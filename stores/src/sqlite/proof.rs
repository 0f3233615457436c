//! Proving that a plane is gone: by count, by keys and by vectors known from before, over a connection that cannot write.
//!
//! The rule: nothing found means nothing only where the plane's own fence row was found by the same connection. It only reads, so
//! nothing happens if we die in it.

use lethe_stages::{
    ports::{EmptinessProof, PortError, Recurrence},
    record::{Key, Known, Record, Salt, Value},
};
use sqlx::{Row, sqlite::SqliteConnection};
use uuid::Uuid;

use super::{
    connect::failed,
    fence,
    read::{self, record},
    schema::Table,
    sql::{Sql, key_value, name},
    triggers,
};
use crate::verdict::{different, fence_seen, identical, is_known, known_vectors};

/// Asks for the plane's records, and for `samples` without relying on the plane column.
pub(super) async fn prove_empty(
    connection: &mut SqliteConnection,
    table: &Table,
    plane_id: Uuid,
    samples: &[Record],
) -> Result<EmptinessProof, PortError> {
    let doing = format!("prove table {} empty", table.name);
    let row = fence::read(connection, table).await?.filter(|row| row.plane_id == plane_id.to_string()).ok_or_else(|| {
        PortError::WrongPlace(format!(
            "{doing}: the fence row of plane {plane_id} is not in this file, so its silence proves nothing"
        ))
    })?;
    triggers::stand(connection, table, &row, &doing).await?;
    if let Some(sample) = samples.iter().find(|sample| sample.values.len() != table.columns.len()) {
        return Err(PortError::Permanent(format!(
            "{doing}: the samples have {} column(s), the table now has {}",
            sample.values.len(),
            table.columns.len()
        )));
    }
    let remaining = read::count(connection, table).await?;
    let mut keys_found = 0;
    for sample in samples {
        keys_found += u64::from(still_there(connection, table, sample).await?);
    }
    let known = table.embedding.map_or_else(Vec::new, |embedding| different(samples, embedding));
    let (vectors_probed, vectors_found) = vectors(connection, table, &known).await?;
    Ok(EmptinessProof {
        remaining,
        keys_probed: samples.len() as u64,
        keys_found,
        vectors_probed,
        vectors_found,
        // Without the plane's value: this stays in the trail for ever.
        canary: format!("row of lethe_fence for plane {}, mode {}, epoch {}", row.plane_id, row.mode, row.epoch),
    })
}

/// Asks again after a purge. Without a fence it answers too: what is there came back, whatever this file is.
pub(super) async fn look_again(
    connection: &mut SqliteConnection,
    table: &Table,
    plane_id: Uuid,
    known: &[Known],
    salt: &Salt,
) -> Result<Recurrence, PortError> {
    let row = fence::read(connection, table).await?;
    let enforced = triggers::all_there(connection, table).await?;
    let plane = table.plane.as_ref().map(|plane| (plane.column, plane.text.as_str()));
    let mut keys_found = 0;
    for one in known {
        let seen = anywhere(connection, table, &one.key).await?;
        keys_found += u64::from(seen.iter().any(|seen| is_known(one, seen, salt, plane)));
    }
    let known_vectors = known_vectors(known);
    let (vectors_probed, vectors_found) = vectors(connection, table, &known_vectors.iter().collect::<Vec<_>>()).await?;
    Ok(Recurrence {
        fence: fence_seen(row.as_ref(), plane_id, enforced),
        remaining: read::count(connection, table).await?,
        keys_probed: known.len() as u64,
        keys_found,
        vectors_probed,
        vectors_found,
    })
}

/// Whether a record with the sample's key and content is anywhere in the table, whatever plane it says it is of.
async fn still_there(connection: &mut SqliteConnection, table: &Table, sample: &Record) -> Result<bool, PortError> {
    let plane_column = table.plane.as_ref().map(|plane| plane.column);
    let same = |found: &Record| {
        (0..table.columns.len())
            .filter(|column| Some(*column) != plane_column)
            .all(|column| identical(&found.values[column], &sample.values[column]))
    };
    Ok(anywhere(connection, table, &sample.key).await?.iter().any(same))
}

/// The records under a key that may be the plane's, whatever plane they say they are of.
async fn anywhere(connection: &mut SqliteConnection, table: &Table, key: &Key) -> Result<Vec<Record>, PortError> {
    let (key, value) = (table.quoted_key(), key_value(key));
    let mut query = Sql::new(format!("SELECT {} FROM {} WHERE {key} = ", table.quoted_columns(), table.quoted()))
        .value(value.clone())
        .text(format!(" AND {key} = "))
        .value(value)
        .text(" COLLATE BINARY");
    // Where keys are unique within a plane only, a neighbour may rightly hold the same key with the same content (two tenants that
    // loaded one document). Of other planes' records, only those then count that are nobody's or whose plane differs from ours in
    // nothing but case and outer white space: what a move out of the mapping's sight looks like.
    if let (Some(plane), false) = (&table.plane, table.key_is_global) {
        let column = name(&table.columns[plane.column].name);
        query = query
            .text(format!(" AND ({column} IS NULL OR lower(trim(CAST({column} AS TEXT))) = lower(trim("))
            .value(Value::Text(plane.text.clone()))
            .text(")))");
    }
    let rows =
        query.query().fetch_all(connection).await.map_err(failed(format!("look for known keys in table {}", table.name)))?;
    rows.iter().map(|row| record(row, table)).collect()
}

/// How many different embeddings are known, and how many of them a record of the plane or of no plane still has.
async fn vectors(connection: &mut SqliteConnection, table: &Table, known: &[&Value]) -> Result<(u64, u64), PortError> {
    let Some(embedding) = table.embedding else { return Ok((0, 0)) };
    if known.is_empty() {
        return Ok((0, 0));
    }
    let column = name(&table.columns[embedding].name);
    let unowned = table.plane_column().map_or(String::new(), |plane| format!(" OR {} IS NULL", name(plane)));
    let mut found = 0;
    for known in known.chunks(200) {
        let query = Sql::new(format!("SELECT count(DISTINCT {column} COLLATE BINARY) FROM {} WHERE (", table.quoted()))
            .sql(table.scope())
            .text(format!("{unowned}) AND {column} COLLATE BINARY IN "))
            .list(known.iter().map(|value| (*value).clone()));
        let row = query.query().fetch_one(&mut *connection).await;
        let row = row.map_err(failed(format!("look for known vectors in table {}", table.name)))?;
        found += row.get::<i64, _>(0) as u64;
    }
    Ok((known.len() as u64, found))
}
