//! Looking at a server before it is registered: that it lets us in, speaks our version, and says who it is.
//!
//! The rule: it changes nothing. It only reads, so nothing happens if we die in it.

use hyper::{Method, StatusCode};
use lethe_stages::ports::PortError;
use serde::Deserialize;

use super::refusal;
use crate::{
    StoreCheck,
    http::{Address, Client},
};

/// The version of the protocol that this driver speaks.
const VERSION: u32 = 1;

#[derive(Deserialize)]
struct Greeting {
    protocol: String,
    version: u32,
    store_id: String,
    server: String,
    #[serde(default)]
    resources: Vec<String>,
    writable: bool,
}

impl Greeting {
    /// What the ledger keeps, to recognise the store by.
    fn identity(&self) -> String {
        format!("protocol:{}", self.store_id)
    }
}

/// Makes sure that the server is the one that was registered. Whoever answers at its address could else say that nothing is there.
pub(super) async fn is_registered(client: &Client, identity: &str, doing: &str) -> Result<(), PortError> {
    let found = greeting(client, doing).await?.identity();
    if found == identity {
        return Ok(());
    }
    Err(PortError::WrongPlace(format!(
        "{doing}: the store was registered as `{identity}`, and `{found}` answers: it is another store"
    )))
}

/// Asks the server who it is.
pub(crate) async fn check(address: &Address) -> Result<StoreCheck, PortError> {
    let doing = format!("look at {}", address.shown());
    let client = Client::new(address, "authorization", "Bearer ")?;
    let found = greeting(&client, &doing).await?;
    Ok(StoreCheck {
        url: address.canonical(),
        kind: "protocol",
        bytes: None,
        journal_mode: None,
        file_id: found.identity(),
        server: Some(client.words.said(&found.server)),
        tables: client.words.listed(&found.resources),
        virtual_tables: Vec::new(),
        writable: found.writable,
    })
}

async fn greeting(client: &Client, doing: &str) -> Result<Greeting, PortError> {
    let reply = client.ask(Method::GET, "/", None, doing).await?;
    if reply.status != StatusCode::OK {
        return Err(refusal(doing, &reply));
    }
    let wrong = |why: String| PortError::Permanent(format!("{doing}: {why}; stores/PROTOCOL.md says what a server must answer"));
    let found: Greeting = reply.read(doing)?;
    if found.protocol != "lethe-store" || found.version != VERSION {
        let (speaks, version) = (client.words.said(&found.protocol), found.version);
        return Err(wrong(format!("it speaks {speaks} {version}, and lethe-store {VERSION} is needed")));
    }
    if found.store_id.is_empty() || client.words.said(&found.store_id) != found.store_id {
        return Err(wrong(
            "its store_id is empty, longer than 300 characters, or holds a control character or the token, and could not be kept"
                .into(),
        ));
    }
    Ok(found)
}
