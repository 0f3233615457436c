//! A URL to which each notice is posted, signed as Standard Webhooks has it: `webhook-id`, `webhook-timestamp` and `webhook-signature`
//! = `v1,` base64(HMAC-SHA256(secret, `id.timestamp.body`)).
//!
//! The rule: only an answer of 2xx is a receipt; redirections are not followed, and nothing goes unencrypted to another machine.
//! If we die before the answer, it is posted again under the same id.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use lethe_stages::ports::PortError;
use sha2::Sha256;

use super::{Message, said};
use crate::{
    http::{Address, Client},
    secret::Secret,
};

/// See the module.
#[derive(Debug, Clone)]
pub struct WebhookChannel {
    address: Address,
    secret: Option<Secret>,
    timeout: Duration,
}

impl WebhookChannel {
    /// A webhook at `url`; `secret_env` or `secret_file` name where its secret is to be found.
    ///
    /// # Errors
    /// What is wrong with the URL or with both places being named.
    pub fn new(url: &str, secret_env: &str, secret_file: &str, ca_file: &str, timeout: Duration) -> Result<Self, String> {
        let address = Address::of_webhook(url, ca_file)?;
        let secret = match (secret_env, secret_file) {
            ("", "") => None,
            (name, "") => Some(Secret::Environment(name.to_owned())),
            ("", path) => Some(Secret::File(path.to_owned())),
            _ => return Err("secret_env and secret_file are both named: name one".into()),
        };
        Ok(Self { address, secret, timeout })
    }

    pub(super) async fn tell(&self, message: &Message) -> Result<(), PortError> {
        let doing = format!("post to {}", self.address.origin());
        let timestamp = message.at.timestamp().to_string();
        let mut headers = vec![("webhook-id", message.id.to_string()), ("webhook-timestamp", timestamp.clone())];
        if let Some(secret) = &self.secret {
            let key = secret.read().map_err(|why| PortError::Permanent(format!("{doing}: its secret: {why}")))?;
            headers.push(("webhook-signature", sign(&key, &message.id.to_string(), &timestamp, &message.body)));
        }
        let client = Client::plain(&self.address)?;
        let posted = tokio::time::timeout(self.timeout, client.post(message.body.clone(), &headers, &doing)).await;
        let reply =
            posted.map_err(|_| PortError::Transient(format!("{doing}: no answer within {} s", self.timeout.as_secs())))??;
        if reply.status.is_success() {
            return Ok(());
        }
        Err(PortError::Transient(format!("{doing}: {} {}", reply.status, said(&reply.body))))
    }
}

/// The signature; a secret that begins with `whsec_` is the base64 of the key, any other the key itself.
fn sign(secret: &str, id: &str, timestamp: &str, body: &str) -> String {
    let encoded = secret.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
    let key = encoded.unwrap_or_else(|| secret.as_bytes().to_vec());
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length");
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_specification() {
        // The example of Standard Webhooks.
        let signed = sign(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn nothing_goes_unencrypted_to_another_machine() {
        let new = |url: &str| WebhookChannel::new(url, "", "", "", Duration::from_secs(1)).map(drop);
        assert_eq!(new("http://127.0.0.1:9/hook"), Ok(()));
        assert_eq!(new("https://hooks.example/x?tenant=a"), Ok(()));
        for wrong in ["http://hooks.example/x", "ftp://hooks.example", "https://user:secret@hooks.example", "hooks.example"] {
            let error = new(wrong).expect_err(wrong);
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
