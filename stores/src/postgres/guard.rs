//! What makes a fence: triggers that refuse writes to a closed plane, and row security that hides its records from readers.
//!
//! The rule: what stands on the table follows from the rows of `lethe_fence` alone, and is exactly what stood before once no row asks
//! for more. Everybody's statements run these, so they name everything in full and read the fence with Lethe's rights.
//! They are made and removed in the caller's transaction, which is rolled back if we die in it.

use lethe_stages::{canonical, ports::PortError};
use sqlx::{Row, postgres::PgConnection};

use super::{
    connect::failed,
    schema::Table,
    sql::{literal, name, statement},
};
use crate::verdict::FenceRow;

/// The last of a table's triggers to fire, so that no other one changes a record after it was judged.
const TRIGGER: &str = "zz_lethe_fence";
const TRUNCATE_TRIGGER: &str = "zz_lethe_fence_truncate";
const POLICY: &str = "lethe_fence";
/// Stands only where there was no row security before, of which every record is hidden unless a policy shows it.
const OPEN_POLICY: &str = "lethe_open";

/// A function's name in the table's schema, at most 63 bytes long.
fn function(table: &Table, prefix: &str) -> String {
    let plain = format!("{prefix}_{}", table.relation);
    if plain.len() <= 63 {
        return table.own(&plain);
    }
    let digest = canonical::sha256(table.relation.as_bytes());
    table.own(&format!("{prefix}_{}", &digest["sha256:".len()..][..32]))
}

/// Makes the table's guards what the fence's rows ask for.
pub(super) async fn set(tx: &mut PgConnection, table: &Table) -> Result<(), PortError> {
    let doing = format!("read the fence of table {}", table.resource());
    let row = statement(format!(
        "SELECT count(*) FILTER (WHERE mode <> 'open'), count(*) FILTER (WHERE mode = 'closed') FROM {} WHERE resource = $1",
        table.own("lethe_fence")
    ))
    .bind(table.resource())
    .fetch_one(&mut *tx)
    .await
    .map_err(failed(doing))?;
    let (shut, closed): (i64, i64) = (row.get(0), row.get(1));
    if shut > 0 {
        refuse_writes(tx, table).await?
    } else {
        admit_writes(tx, table).await?
    }
    if closed > 0 && can_refuse_reads(tx, table).await? { refuse_reads(tx, table).await } else { admit_reads(tx, table).await }
}

async fn run(tx: &mut PgConnection, doing: &str, sql: String) -> Result<(), PortError> {
    statement(sql).execute(tx).await.map_err(failed(doing.to_owned()))?;
    Ok(())
}

async fn exists(tx: &mut PgConnection, sql: &str, table: &Table, object: &str) -> Result<bool, PortError> {
    let found = statement(sql.to_owned()).bind(table.oid).bind(object.to_owned()).fetch_optional(tx).await;
    Ok(found.map_err(failed(format!("look for {object} on table {}", table.resource())))?.is_some())
}

const HAS_TRIGGER: &str = "SELECT 1 FROM pg_trigger WHERE tgrelid = $1::oid AND tgname = $2 AND tgenabled = 'A'";
const HAS_POLICY: &str = "SELECT 1 FROM pg_policy WHERE polrelid = $1::oid AND polname = $2";

async fn refuse_writes(tx: &mut PgConnection, table: &Table) -> Result<(), PortError> {
    let doing = format!("refuse writes to closed planes of table {}", table.resource());
    let (fence, resource, quoted) = (table.own("lethe_fence"), literal(&table.resource()), table.quoted());
    let refuse = function(table, "lethe_refuse");
    let closed = |row: &str| {
        let plane = table.plane_column().map_or("''".to_owned(), |column| format!("{row}.{}::text", name(column)));
        format!(
            "EXISTS (SELECT FROM {fence} WHERE resource = {resource} AND plane = {plane} AND mode NOT IN ('open', 'erasing'))"
        )
    };
    let message = format!("lethe: the plane of this record in {} is being offboarded; it takes no writes", table.resource());
    let raise = format!("RAISE EXCEPTION USING MESSAGE = {}, ERRCODE = 'insufficient_privilege'", literal(&message));
    // The plane's own deletes run while its row says `erasing`, which no other transaction ever sees.
    let body = format!(
        "BEGIN
           IF TG_OP = 'TRUNCATE' THEN
             IF EXISTS (SELECT FROM {fence} WHERE resource = {resource} AND mode NOT IN ('open', 'erasing')) THEN {raise}; END IF;
             RETURN NULL;
           END IF;
           IF TG_OP <> 'INSERT' THEN IF {} THEN {raise}; END IF; END IF;
           IF TG_OP <> 'DELETE' THEN IF {} THEN {raise}; END IF; RETURN NEW; END IF;
           RETURN OLD;
         END",
        closed("OLD"),
        closed("NEW")
    );
    run(
        tx,
        &doing,
        format!(
            "CREATE OR REPLACE FUNCTION {refuse}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
             SET search_path = pg_catalog, pg_temp AS {}",
            literal(&body)
        ),
    )
    .await?;
    for (trigger, when) in [
        (TRIGGER, "BEFORE INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW"),
        (TRUNCATE_TRIGGER, "BEFORE TRUNCATE ON {} FOR EACH STATEMENT"),
    ] {
        if exists(tx, HAS_TRIGGER, table, trigger).await? {
            continue;
        }
        let when = when.replace("{}", &quoted);
        run(tx, &doing, format!("CREATE OR REPLACE TRIGGER {} {when} EXECUTE FUNCTION {refuse}()", name(trigger))).await?;
        // Also where a session says that it applies somebody else's changes.
        run(tx, &doing, format!("ALTER TABLE {quoted} ENABLE ALWAYS TRIGGER {}", name(trigger))).await?;
    }
    Ok(())
}

async fn admit_writes(tx: &mut PgConnection, table: &Table) -> Result<(), PortError> {
    let doing = format!("drop the triggers of table {}", table.resource());
    for trigger in [TRIGGER, TRUNCATE_TRIGGER] {
        run(tx, &doing, format!("DROP TRIGGER IF EXISTS {} ON {}", name(trigger), table.quoted())).await?;
    }
    run(tx, &doing, format!("DROP FUNCTION IF EXISTS {}()", function(table, "lethe_refuse"))).await
}

/// Whether row security can be used here: not where it is switched off and restrictive policies wait for it to be switched on.
pub(super) async fn can_refuse_reads(tx: &mut PgConnection, table: &Table) -> Result<bool, PortError> {
    const DORMANT: &str = "SELECT 1 FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE p.polrelid = $1::oid
        AND NOT p.polpermissive AND NOT c.relrowsecurity AND p.polname <> $2";
    Ok(!exists(tx, DORMANT, table, POLICY).await?)
}

/// Whether our role sees every record even where row security is forced on a table's owner.
pub(super) async fn bypasses(tx: &mut PgConnection) -> Result<bool, PortError> {
    let row = statement("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user").fetch_one(tx).await;
    Ok(row.map_err(failed("read the rights of our role"))?.get(0))
}

async fn refuse_reads(tx: &mut PgConnection, table: &Table) -> Result<(), PortError> {
    let doing = format!("hide closed planes of table {}", table.resource());
    let (fence, quoted, closed) = (table.own("lethe_fence"), table.quoted(), function(table, "lethe_closed"));
    let body = format!(
        "SELECT coalesce(array_agg(plane), '{{}}') FROM {fence} WHERE resource = {} AND mode = 'closed'",
        literal(&table.resource())
    );
    run(
        tx,
        &doing,
        format!(
            "CREATE OR REPLACE FUNCTION {closed}() RETURNS text[] LANGUAGE sql STABLE SECURITY DEFINER
             SET search_path = pg_catalog, pg_temp AS {}",
            literal(&body)
        ),
    )
    .await?;
    run(tx, &doing, format!("GRANT EXECUTE ON FUNCTION {closed}() TO PUBLIC")).await?;
    // Asked once per statement and not once per record; a record of no plane stays visible.
    let plane = table.plane_column().map_or("''".to_owned(), |column| format!("{}::text", name(column)));
    let shown = format!("({plane} = ANY ((SELECT {closed}())::text[])) IS NOT TRUE");
    if !exists(tx, HAS_POLICY, table, POLICY).await? {
        run(tx, &doing, format!("CREATE POLICY {POLICY} ON {quoted} AS RESTRICTIVE FOR SELECT USING ({shown})")).await?;
    }
    let (enabled, forced) = row_security(tx, table).await?;
    if !enabled {
        if !exists(tx, HAS_POLICY, table, OPEN_POLICY).await? {
            run(tx, &doing, format!("CREATE POLICY {OPEN_POLICY} ON {quoted} USING (true) WITH CHECK (true)")).await?;
        }
        run(tx, &doing, format!("ALTER TABLE {quoted} ENABLE ROW LEVEL SECURITY")).await?;
    }
    if !forced && bypasses(tx).await? {
        run(tx, &doing, format!("ALTER TABLE {quoted} FORCE ROW LEVEL SECURITY")).await?;
    }
    Ok(())
}

/// Whether row security is switched on now, and forced on the table's owner.
async fn row_security(tx: &mut PgConnection, table: &Table) -> Result<(bool, bool), PortError> {
    let asked = statement("SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = $1::oid").bind(table.oid);
    let row = asked.fetch_one(tx).await.map_err(failed(format!("look at the row security of table {}", table.resource())))?;
    Ok((row.get(0), row.get(1)))
}

/// Refuses a table that does not carry the fence that its plane's row says it carries: a table that was renamed takes its triggers along,
/// so this is another one under its name, and its silence proves nothing.
pub(super) async fn stands(tx: &mut PgConnection, table: &Table, row: &FenceRow, doing: &str) -> Result<(), PortError> {
    if row.mode == "open" || exists(tx, HAS_TRIGGER, table, TRIGGER).await? {
        return Ok(());
    }
    let (quoted, refuse, trigger) = (table.quoted(), function(table, "lethe_refuse"), name(TRIGGER));
    Err(PortError::WrongPlace(format!(
        "{doing}: the plane is fenced, and this table carries no trigger {TRIGGER}: it is not the table that was fenced (find that one and \
         give it its name back), or somebody dropped or disabled its trigger (CREATE OR REPLACE TRIGGER {trigger} BEFORE INSERT OR UPDATE \
         OR DELETE ON {quoted} FOR EACH ROW EXECUTE FUNCTION {refuse}(); ALTER TABLE {quoted} ENABLE ALWAYS TRIGGER {trigger})"
    )))
}

/// Removes the policies and gives the table the row security that it had.
async fn admit_reads(tx: &mut PgConnection, table: &Table) -> Result<(), PortError> {
    let doing = format!("show the planes of table {} again", table.resource());
    if !exists(tx, HAS_POLICY, table, POLICY).await? {
        return Ok(());
    }
    let quoted = table.quoted();
    let row = statement(format!(
        "SELECT row_security, row_security_forced FROM {} WHERE resource = $1 AND plane = $2",
        table.own("lethe_fence")
    ))
    .bind(table.resource())
    .bind(table.plane_text().to_owned())
    .fetch_one(&mut *tx)
    .await
    .map_err(failed(doing.clone()))?;
    for policy in [POLICY, OPEN_POLICY] {
        run(tx, &doing, format!("DROP POLICY IF EXISTS {policy} ON {quoted}")).await?;
    }
    if !row.get::<bool, _>(0) {
        run(tx, &doing, format!("ALTER TABLE {quoted} DISABLE ROW LEVEL SECURITY")).await?;
    }
    if !row.get::<bool, _>(1) {
        run(tx, &doing, format!("ALTER TABLE {quoted} NO FORCE ROW LEVEL SECURITY")).await?;
    }
    run(tx, &doing, format!("DROP FUNCTION IF EXISTS {}()", function(table, "lethe_closed"))).await
}

/// What the fence cannot refuse, in words.
pub(super) async fn unfenced(connection: &mut PgConnection, table: &Table) -> Result<Vec<String>, PortError> {
    let mut said = Vec::new();
    if !can_refuse_reads(connection, table).await? {
        said.push(
            "reads: the table has restrictive policies that are switched off, and switching them on would hide other planes"
                .into(),
        );
    } else if bypasses(connection).await? {
        said.push("reads by superusers and by roles with BYPASSRLS".to_owned());
    } else {
        said.push(format!(
            "reads by the owner {}, its members, superusers and roles with BYPASSRLS: our role has no BYPASSRLS, so row security \
             cannot be forced on the owner",
            table.owner
        ));
    }
    if table.partitioned {
        said.push("reads and TRUNCATE of a partition by its own name".into());
    }
    said.push("writes by who drops or disables the triggers: the owner, its members and superusers".into());
    // Row security as it was before comes back when nothing is left that it could hide.
    said.push("reads of a plane that was purged: it is empty, and nothing is hidden any more".into());
    Ok(said)
}
