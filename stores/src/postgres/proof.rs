//! Proving that a plane is gone: by count, by keys and by vectors known from before, over a connection of its own that cannot write.
//!
//! The rule: nothing found means nothing only where the plane's own fence row was found by the same connection. Keys are looked up both
//! through the indexes and past them, and vectors by the search that queries use. It only reads, so nothing happens if we die in it.

use std::collections::BTreeSet;

use lethe_stages::{
    ports::{EmptinessProof, PortError, Recurrence},
    record::{Key, Known, Record, Salt, Value},
};
use sqlx::{Row, postgres::PgConnection};
use uuid::Uuid;

use super::{
    columns::{Class, written_vector},
    connect::failed,
    fence, guard, partition, read,
    read::record,
    schema::Table,
    sql::{Param, Sql, name, statement},
};
use crate::verdict::{different, fence_seen, identical, is_known, known_vectors};

/// Neighbours that a search is asked for; pgvector's indexes answer with about as many.
const NEIGHBOURS: usize = 40;

/// Asks for the plane's records, and for `samples` without relying on the plane column.
pub(super) async fn prove_empty(
    connection: &mut PgConnection,
    table: &Table,
    plane_id: Uuid,
    samples: &[Record],
) -> Result<EmptinessProof, PortError> {
    let doing = format!("prove table {} empty", table.resource());
    let row = fence::read(connection, table).await?.filter(|row| row.plane_id == plane_id.to_string()).ok_or_else(|| {
        PortError::WrongPlace(format!(
            "{doing}: the fence row of plane {plane_id} is not in this database, so its silence proves nothing"
        ))
    })?;
    guard::stands(connection, table, &row, &doing).await?;
    if let Some(sample) = samples.iter().find(|sample| sample.values.len() != table.columns.len()) {
        return Err(PortError::Permanent(format!(
            "{doing}: the samples have {} column(s), the table now has {}",
            sample.values.len(),
            table.columns.len()
        )));
    }
    let (mut remaining, mut found) = (0, BTreeSet::new());
    for past_indexes in [false, true] {
        look(connection, past_indexes).await?;
        remaining = read::count(connection, table).await?.max(remaining);
        found.extend(still_there(connection, table, samples).await?);
    }
    look(connection, false).await?;
    let known = table.embedding.map_or_else(Vec::new, |embedding| different(samples, embedding));
    let (vectors_probed, vectors_found) = vectors(connection, table, &known).await?;
    let searched =
        table.vector_index.as_ref().map_or(String::new(), |index| format!(", searched by {} index {}", index.method, index.name));
    Ok(EmptinessProof {
        remaining,
        keys_probed: samples.len() as u64,
        keys_found: found.len() as u64,
        vectors_probed,
        vectors_found,
        // Without the plane's value: this stays in the trail for ever.
        canary: format!("row of lethe_fence for plane {}, mode {}, epoch {}{searched}", row.plane_id, row.mode, row.epoch),
    })
}

/// Asks again after a purge, through the indexes and past them. Without a fence it answers too: what is there came back, whatever this
/// database is.
pub(super) async fn look_again(
    connection: &mut PgConnection,
    table: &Table,
    plane_id: Uuid,
    known: &[Known],
    salt: &Salt,
) -> Result<Recurrence, PortError> {
    let doing = format!("look again in table {}", table.resource());
    let row = fence::read(connection, table).await?;
    let enforced = match &row {
        Some(row) => match guard::stands(connection, table, row, &doing).await {
            Err(PortError::WrongPlace(_)) => false,
            other => other.map(|()| true)?,
        },
        None => false,
    };
    let plane = table.plane.as_ref().map(|plane| (plane.column, plane.text.as_str()));
    let keys: Vec<&Key> = known.iter().map(|one| &one.key).collect();
    let (mut remaining, mut found) = (0, BTreeSet::new());
    for past_indexes in [false, true] {
        look(connection, past_indexes).await?;
        remaining = read::count(connection, table).await?.max(remaining);
        for seen in anywhere(connection, table, &keys).await? {
            found.extend(known.iter().position(|one| is_known(one, &seen, salt, plane)));
        }
    }
    look(connection, false).await?;
    let known_vectors = known_vectors(known);
    let (vectors_probed, vectors_found) = vectors(connection, table, &known_vectors.iter().collect::<Vec<_>>()).await?;
    Ok(Recurrence {
        fence: fence_seen(row.as_ref(), plane_id, enforced),
        remaining,
        keys_probed: known.len() as u64,
        keys_found: found.len() as u64,
        vectors_probed,
        vectors_found,
    })
}

/// Lets the planner use every index, or none: an index may hold what its table does not, and the other way round.
async fn look(connection: &mut PgConnection, past_indexes: bool) -> Result<(), PortError> {
    let (scan, index) = if past_indexes { ("on", "off") } else { ("off", "on") };
    statement(
        "SELECT set_config('enable_seqscan', $1, true), set_config('enable_indexscan', $2, true),
                set_config('enable_indexonlyscan', $2, true), set_config('enable_bitmapscan', $2, true)",
    )
    .bind(scan)
    .bind(index)
    .execute(connection)
    .await
    .map_err(failed("choose how to look"))?;
    Ok(())
}

/// The places of those samples whose key and content are anywhere in the table, whatever plane they say they are of.
async fn still_there(connection: &mut PgConnection, table: &Table, samples: &[Record]) -> Result<Vec<usize>, PortError> {
    let keys: Vec<&Key> = samples.iter().map(|sample| &sample.key).collect();
    let plane_column = table.plane.as_ref().map(|plane| plane.column);
    let mut found = Vec::new();
    for seen in anywhere(connection, table, &keys).await? {
        let same = |sample: &Record| {
            sample.key == seen.key
                && (0..table.columns.len())
                    .filter(|column| Some(*column) != plane_column)
                    .all(|column| identical(&seen.values[column], &sample.values[column]))
        };
        found.extend(samples.iter().position(same));
    }
    Ok(found)
}

/// The records under these keys that may be the plane's, whatever plane they say they are of.
async fn anywhere(connection: &mut PgConnection, table: &Table, keys: &[&Key]) -> Result<Vec<Record>, PortError> {
    let Some(bound) = table.key_class.params(keys.iter().copied()).filter(|_| !keys.is_empty()) else {
        return keys.first().map_or(Ok(Vec::new()), |key| Err(read::not_of_this_table(table, key)));
    };
    let mut query = Sql::new(format!("SELECT {} FROM {} WHERE {} = ANY (", table.selected(), table.quoted(), table.quoted_key()))
        .param(bound)
        .text(format!("{})", table.key_class.array()));
    // Where keys are unique within a plane only, a neighbour may rightly hold the same key with the same content (two tenants that
    // loaded one document). Of other planes' records, only those then count that are nobody's or whose plane differs from ours in
    // nothing but case and outer white space: what a move out of the mapping's sight looks like.
    if let (Some(plane), false) = (&table.plane, table.key_is_global) {
        let column = &table.columns[plane.column];
        let quoted = name(&column.name);
        query = query.text(format!(" AND ({quoted} IS NULL OR "));
        query = match partition::values_like(connection, table).await? {
            // By name, so that the server asks the partitions of these values, and none of a neighbour's.
            Some(values) => query
                .text(format!("{quoted} = ANY ("))
                .param(Param::Texts(values))
                .text(format!("::text[]::{}[]))", column.plane_type())),
            None => query
                .text(format!("lower(btrim({quoted}::text)) = lower(btrim("))
                .param(Param::Text(plane.text.clone()))
                .text(")))"),
        };
    }
    let rows = query.query().fetch_all(connection).await;
    let rows = rows.map_err(failed(format!("look for known keys in table {}", table.resource())))?;
    rows.iter().map(|row| record(row, table)).collect()
}

/// How many different embeddings are known, and how many of them a record of the plane or of no plane still has: by equality, and,
/// where they are of pgvector's type, among the nearest neighbours that a query by that very vector finds.
async fn vectors(connection: &mut PgConnection, table: &Table, known: &[&Value]) -> Result<(u64, u64), PortError> {
    let Some(embedding) = table.embedding.filter(|_| !known.is_empty()) else { return Ok((0, 0)) };
    let column = &table.columns[embedding];
    let (mut blobs, mut written, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    for value in known {
        match value {
            Value::Blob(bytes) => {
                blobs.push(sent(&column.class, bytes));
                written.push(written_vector(bytes));
            }
            Value::Text(text) => texts.push(text.clone()),
            _ => {}
        }
    }
    // A column gives either bytes or text.
    let (values, array) = if texts.is_empty() { (Param::Blobs(blobs), "bytea[]") } else { (Param::Texts(texts), "text[]") };
    let unowned = table.plane_column().map_or(String::new(), |plane| format!(" OR {} IS NULL", name(plane)));
    let mine = |sql: Sql| table.scope(sql.text("(")).text(format!("{unowned})"));
    let selected = column.selected();
    // Each under names that no column of theirs has.
    let equal = Sql::new("SELECT DISTINCT lethe_place FROM unnest(")
        .param(values.clone())
        .text(format!("::{array}) WITH ORDINALITY AS sought (lethe_value, lethe_place) JOIN {} ON ", table.quoted()))
        .text(format!("{selected} = lethe_value WHERE "));
    let mut found = places(connection, table, mine(equal)).await?;
    if let Class::Vector(schema) = &column.class {
        let (of, schema) = (name(&column.name), name(schema));
        let operator = table.vector_index.as_ref().map_or(format!("OPERATOR({schema}.<->)"), |index| index.operator.clone());
        // OFFSET 0: each vector is read from its text once, and not for every record it is compared with.
        let nearest = Sql::new(format!(
            "SELECT DISTINCT lethe_place FROM (SELECT lethe_value, lethe_place, lethe_text::{schema}.vector"
        ))
        .text(" AS lethe_vector FROM unnest(")
        .param(values)
        .text(format!("::{array}, "))
        .param(Param::Texts(written))
        .text(
            "::text[]) WITH ORDINALITY AS sought (lethe_value, lethe_text, lethe_place) OFFSET 0) AS sought CROSS JOIN LATERAL ",
        )
        .text(format!("(SELECT * FROM {} ORDER BY {of} {operator} lethe_vector LIMIT {NEIGHBOURS}) AS nearest ", table.quoted()))
        .text(format!("WHERE {selected} = lethe_value AND "));
        found.extend(places(connection, table, mine(nearest)).await?);
    }
    Ok((known.len() as u64, found.len() as u64))
}

async fn places(connection: &mut PgConnection, table: &Table, sql: Sql) -> Result<BTreeSet<i64>, PortError> {
    let rows = sql.query().fetch_all(connection).await;
    let rows = rows.map_err(failed(format!("look for known vectors in table {}", table.resource())))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A vector's bytes as the column's own expression gives them.
fn sent(class: &Class, bytes: &[u8]) -> Vec<u8> {
    match class {
        Class::Vector(_) => {
            let head = u16::try_from(bytes.len() / 4).unwrap_or(u16::MAX).to_be_bytes();
            let numbers = bytes.chunks_exact(4).flat_map(|four| four.iter().rev().copied());
            head.into_iter().chain([0, 0]).chain(numbers).collect()
        }
        _ => bytes.to_vec(),
    }
}
