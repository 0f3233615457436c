//! What an S3 server's errors mean: who must act, and what would be right.
//!
//! The rule: the message names the bucket and never a secret. Of what the server wrote only the code and, where it is about neither
//! identity nor signature, its sentence are passed on.

use std::error::Error;

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId,
};
use lethe_stages::ports::PortError;

/// The port's error for one of the SDK's, with what was being done to which bucket.
pub(super) fn port_error<E>(doing: &str, bucket: &str, error: &SdkError<E, HttpResponse>) -> PortError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let doing = format!("{doing} in bucket {bucket}");
    match error {
        SdkError::ServiceError(service) => {
            let status = service.raw().status().as_u16();
            let (code, said) = (error.code().unwrap_or_default(), error.message().unwrap_or_default());
            let request = error.request_id().map(|id| format!(", request {id}")).unwrap_or_default();
            of_service(&doing, code, status, said, &request)
        }
        SdkError::ResponseError(response) => {
            let status = response.raw().status().as_u16();
            // It was done, or begun; the connection broke in the middle of the answer.
            if status < 400 {
                return PortError::Transient(format!("{doing}: the server's answer cannot be read to its end (HTTP {status})"));
            }
            of_service(&doing, "", status, "its answer cannot be read", "")
        }
        SdkError::TimeoutError(_) => PortError::Transient(format!("{doing}: the server does not answer in time")),
        SdkError::DispatchFailure(failure) => of_connection(&doing, failure.as_connector_error().map(|error| error as _)),
        other => of_connection(&doing, other.source()),
    }
}

/// The verdict on an answer of the server.
pub(super) fn of_service(doing: &str, code: &str, status: u16, said: &str, request: &str) -> PortError {
    let advice = match code {
        "NoSuchBucket" => "there is no such bucket; create it, or name another in the archive's URL",
        "AccessDenied" | "AllAccessDisabled" => "access is denied; grant these credentials what the README lists",
        "InvalidAccessKeyId" => "the server does not know this access key; give it credentials of this server",
        "SignatureDoesNotMatch" => "the signature does not match; the secret key is not the one of this access key",
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => "the session's credentials have expired; renew them",
        "RequestTimeTooSkewed" => "this machine's clock and the server's are too far apart; set it",
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            "the bucket is in another region; set AWS_REGION, or the archive's region"
        }
        "InvalidObjectState" => {
            "the object lies in a storage class from which it must be restored first; restore it there, then retry"
        }
        "InvalidBucketState" | "InvalidRequest" => "the server refuses this request for this bucket",
        "NotImplemented" | "MethodNotAllowed" => "the server has not implemented this",
        _ => "",
    };
    // What a HEAD is answered has no body, and so no code.
    let advice = match (advice, code, status) {
        ("", "", 403) => "access is denied; grant these credentials what the README lists, and check the secret key",
        ("", "", 301 | 307 | 308) => "the bucket is in another region; set AWS_REGION, or the archive's region",
        (advice, ..) => advice,
    };
    let identity = matches!(status, 401 | 403);
    let sentence = match (advice, said) {
        ("", "") => "the server gives no reason".to_owned(),
        ("", said) if !identity => said.to_owned(),
        ("", _) => "the server refuses these credentials".to_owned(),
        (advice, said) if !identity && !said.is_empty() => format!("{advice}: {said}"),
        (advice, _) => advice.to_owned(),
    };
    let code = if code.is_empty() { String::new() } else { format!("{code}, ") };
    let said = format!("{doing}: {sentence} ({code}HTTP {status}{request})");
    if is_transient(code.trim_end_matches(", "), status) { PortError::Transient(said) } else { PortError::Permanent(said) }
}

/// Whether the same request may be answered otherwise in a moment.
fn is_transient(code: &str, status: u16) -> bool {
    const CODES: &[&str] = &[
        "SlowDown",
        "InternalError",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
        "RequestTimeout",
        "OperationAborted",
        "ConditionalRequestConflict",
        "RequestLimitExceeded",
        "ReducePriority",
    ];
    CODES.contains(&code) || (code != "NotImplemented" && (matches!(status, 408 | 429) || status == 500 || status >= 502))
}

/// The verdict where there was no answer.
fn of_connection(doing: &str, error: Option<&(dyn Error + 'static)>) -> PortError {
    let causes = causes(error);
    let text = causes.join(": ");
    let lower = text.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    // By its kind first: a connection that is cut under TLS speaks of TLS too.
    if was_cut(error) {
        return PortError::Transient(format!("{doing}: the server cannot be reached ({text})"));
    }
    // Who gives credentials out (a token service, the instance) may be away for a moment.
    if says(&["timed out", "an error occurred while loading credentials"]) {
        return PortError::Transient(format!("{doing}: the server, or the source of its credentials, does not answer in time"));
    }
    if says(&["credential", "identity", "auth scheme", "profile"]) {
        // What a provider says of its failure may quote what it read.
        return PortError::Permanent(format!(
            "{doing}: no credentials are found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the archive's \
             credentials_file"
        ));
    }
    if says(&["certificate", "tls", "handshake", "corrupt message", "invalidcontenttype", "unknownissuer"]) {
        return PortError::Permanent(format!(
            "{doing}: no TLS connection can be made; check that the endpoint speaks https and that its certificate is one \
             this machine trusts ({text})"
        ));
    }
    if says(&["invalid uri", "invalid url", "endpoint", "builder error"]) {
        return PortError::Permanent(format!("{doing}: the endpoint is no URL like https://host:port ({text})"));
    }
    PortError::Transient(format!("{doing}: the server cannot be reached ({text})"))
}

/// Whether the system says that the connection broke or was not made.
fn was_cut(mut error: Option<&(dyn Error + 'static)>) -> bool {
    use std::io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected, TimedOut, UnexpectedEof,
    };
    while let Some(cause) = error {
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(
            kind,
            Some(BrokenPipe | ConnectionAborted | ConnectionRefused | ConnectionReset | NotConnected | TimedOut | UnexpectedEof)
        ) {
            return true;
        }
        error = cause.source();
    }
    false
}

fn causes(mut error: Option<&(dyn Error + 'static)>) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    while let Some(cause) = error {
        let said = cause.to_string();
        if !causes.last().is_some_and(|last| last.contains(&said)) {
            causes.push(said);
        }
        error = cause.source();
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_will_not() {
        for (code, status) in
            [("SlowDown", 503), ("InternalError", 500), ("", 503), ("", 502), ("RequestTimeout", 400), ("", 429)]
        {
            assert!(matches!(of_service("read x", code, status, "", ""), PortError::Transient(_)), "{code} {status}");
        }
        for (code, status) in [
            ("AccessDenied", 403),
            ("NoSuchBucket", 404),
            ("InvalidAccessKeyId", 403),
            ("NotImplemented", 501),
            ("", 403),
            ("Odd", 400),
        ] {
            assert!(matches!(of_service("read x", code, status, "", ""), PortError::Permanent(_)), "{code} {status}");
        }
    }

    #[test]
    fn a_connection_that_is_cut_under_tls_is_no_wrong_certificate() {
        use std::io::{Error as Io, ErrorKind};
        let cut = Io::new(ErrorKind::UnexpectedEof, "peer closed connection without sending TLS close_notify");
        assert!(matches!(of_connection("read x", Some(&cut)), PortError::Transient(_)));
        let wrong = Io::new(ErrorKind::InvalidData, "invalid peer certificate: UnknownIssuer");
        assert!(matches!(of_connection("read x", Some(&wrong)), PortError::Permanent(said) if said.contains("certificate")));
        let slow = Io::other("an error occurred while loading credentials");
        assert!(matches!(of_connection("read x", Some(&slow)), PortError::Transient(_)));
        let none = Io::other("the credential provider was not enabled");
        assert!(matches!(of_connection("read x", Some(&none)), PortError::Permanent(_)));
    }

    #[test]
    fn what_the_server_says_of_a_signature_is_not_passed_on() {
        for (code, status) in [("SignatureDoesNotMatch", 403), ("Unheard", 403), ("Unheard", 401)] {
            let said = of_service("read x in bucket b", code, status, "you sent AKIDSECRET", "").to_string();
            assert!(said.contains("bucket b") && said.contains(code) && !said.contains("AKIDSECRET"), "{said}");
        }
    }
}
