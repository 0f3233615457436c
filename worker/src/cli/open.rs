//! Opening the ledger and assembling the program from the command line's options.

use std::sync::Arc;

use lethe_ledger::{Clock, Fault, Ledger, OpenOptions, is_postgres};
use lethe_stages::StageRegistry;

use super::{CommandError, args::Global};
use crate::{
    clock::{SystemClock, SystemEntropy},
    config::{Config, ConfigError},
    consequences::Consequences,
    operations::{self, App},
    policy::{Policies, Source},
    world::RealWorld,
};

/// The ledger's URL; a bare path means SQLite.
pub(super) fn url(global: &Global) -> String {
    if global.ledger.contains(':') { global.ledger.clone() } else { format!("sqlite:{}", global.ledger) }
}

fn clock() -> Arc<dyn Clock> {
    #[cfg(feature = "testing")]
    if let Ok(path) = std::env::var("LETHE_CLOCK_FILE") {
        return Arc::new(crate::clock::FileClock(path.into()));
    }
    Arc::new(SystemClock)
}

fn options(global: &Global) -> OpenOptions {
    OpenOptions { url: url(global), clock: clock(), entropy: Arc::new(SystemEntropy) }
}

/// Creates the ledger or brings it to this version.
pub(super) async fn migrate(global: &Global, insecure_demo: bool, app_role: &str) -> Result<Ledger, CommandError> {
    Ok(Ledger::migrate_for(options(global), insecure_demo, app_role).await?)
}

/// Opens the ledger and assembles the program. `creates`: a ledger that does not exist yet is created.
pub(super) async fn app(global: &Global, creates: bool) -> Result<Arc<App>, CommandError> {
    let config = Config::load(global.config.as_deref())?;
    let url = url(global);
    let absent = url.strip_prefix("sqlite:").is_some_and(|path| !std::path::Path::new(path.trim_start_matches("//")).exists());
    let ledger = match Ledger::open(options(global)).await {
        Err(Fault::NotMigrated { .. }) if creates && absent => {
            eprintln!("creating the ledger {url}");
            migrate(global, false, lethe_ledger::APP_ROLE).await?
        }
        opened => opened?,
    };
    assemble(ledger, config)
}

/// The same for a service, which outlives the absence of its database at its start too: it waits until a ledger on a server answers, or
/// says something that waiting does not change.
pub(super) async fn app_of_service(global: &Global) -> Result<Arc<App>, CommandError> {
    let mut said = false;
    loop {
        match app(global, true).await {
            Err(CommandError::Fault(fault)) if fault.is_passing() && is_postgres(&url(global)) => {
                if !said {
                    tracing::warn!(error = &fault as &dyn std::error::Error, "the ledger is away: waiting for it");
                    said = true;
                }
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
            opened => return opened,
        }
    }
}

/// Assembles the program over an open ledger, with the real world.
pub(crate) fn assemble(ledger: Ledger, config: Config) -> Result<Arc<App>, CommandError> {
    if let source @ Source::Folder(_) = config.policy.source() {
        Policies::load(&source).map_err(ConfigError::Policies)?;
    }
    let world = Arc::new(RealWorld::new(&config));
    let app = App::new(ledger, config, StageRegistry::standard(), world, operations::all(), Consequences::standard());
    Ok(Arc::new(app.map_err(CommandError::Local)?))
}
