//! A certificate as a page to read and to print: one file, no script, nothing loaded from elsewhere.
//!
//! The rule: everything that comes from the certificate is escaped; whatever a plane or a tenant is called, it is text. The page shows and
//! proves nothing: it says how the JSON beside it is verified. It only computes.

use std::collections::BTreeMap;

use lethe_verify::{certificate::Certificate, entry::Disclosed};
use serde_json::Value as Json;

/// The sections, in their order: heading, and the place in the predicate.
const SECTIONS: &[(&str, &str)] = &[
    ("Weakest method", "weakest"),
    ("Methods, the weakest first", "methods"),
    ("What is not covered", "not_covered"),
    ("Who and what", ""),
    ("Request", "requested"),
    ("Legal deadline", "law"),
    ("Terms", "terms"),
    ("States", "states"),
    ("Stores", "stores"),
    ("Archive", "archive"),
    ("Approvals", "approvals"),
    ("Holds that stood meanwhile", "holds"),
    ("Grace periods cut short", "break_glass"),
    ("Attestations", "attestations"),
    ("Attempts", "attempts"),
    ("Probes to come", "probes"),
    ("NIST SP 800-88 sample form", "nist_sp_800_88"),
];
/// What stands in "Who and what".
const FACTS: &[&str] = &[
    "plane",
    "tenant",
    "offboarding_id",
    "ground",
    "purged_at",
    "issued_at",
    "policy_revisions",
    "plan_digest",
    "ledger_id",
    "tool",
];

const STYLE: &str = "@page{size:A4;margin:18mm}body{font:10pt/1.4 'Helvetica Neue',Arial,sans-serif;color:#111;max-width:180mm;margin:8mm auto}\
h1{font-size:18pt;margin:0 0 2mm}h2{font-size:11.5pt;margin:6mm 0 1mm;border-bottom:.3mm solid #999;break-after:avoid}\
table{border-collapse:collapse;width:100%;break-inside:avoid}td,th{text-align:left;vertical-align:top;padding:.6mm 2mm .6mm 0;\
overflow-wrap:anywhere}th{font-weight:600;width:38mm;color:#444}table table th{width:30mm}ol{margin:0;padding-left:5mm}li{break-inside:avoid}\
code{font:8.5pt ui-monospace,monospace}.weakest{border:.5mm solid #111;padding:2mm 4mm;margin:4mm 0}.none{color:#777}";

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // What turns the direction of a line or is not seen must not change what a reader reads.
            c if (c.is_control() && c != '\n')
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}') =>
            {
                out.push_str(&format!("\\u{{{:x}}}", c as u32));
            }
            c => out.push(c),
        }
    }
    out
}

/// A field's name in words.
fn words(field: &str) -> String {
    escaped(&field.replace('_', " "))
}

/// A page being written.
struct Page<'a> {
    disclosed: &'a BTreeMap<String, Disclosed>,
}

impl Page<'_> {
    /// A value of the predicate; `at` is its place in the statement.
    fn value(&self, value: &Json, at: &str) -> String {
        match value {
            Json::Null => "<span class=none>–</span>".into(),
            Json::Bool(true) => "yes".into(),
            Json::Bool(false) => "no".into(),
            Json::Number(number) => number.to_string(),
            Json::String(text) => escaped(text),
            Json::Array(items) if items.is_empty() => "<span class=none>none</span>".into(),
            Json::Array(items) => {
                let item = |(index, item): (usize, &Json)| format!("<li>{}</li>", self.value(item, &format!("{at}/{index}")));
                format!("<ol>{}</ol>", items.iter().enumerate().map(item).collect::<String>())
            }
            Json::Object(members) if members.contains_key("commitment") => match self.disclosed.get(at) {
                Some(value) => escaped(&value.value),
                None => {
                    let commitment = members["commitment"].as_str().unwrap_or_default();
                    format!("<span class=none>erased or withheld; committed to as</span> <code>{}</code>", escaped(commitment))
                }
            },
            Json::Object(members) if members.is_empty() => "<span class=none>none</span>".into(),
            Json::Object(members) => {
                let rows = members.iter().map(|(name, value)| self.row(name, value, at));
                format!("<table>{}</table>", rows.collect::<String>())
            }
        }
    }

    fn row(&self, name: &str, value: &Json, at: &str) -> String {
        let place = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        format!("<tr><th>{}</th><td>{}</td></tr>", words(name), self.value(value, &place))
    }
}

/// The page of a certificate.
pub(crate) fn page(certificate: &Certificate, statement: &Json) -> String {
    let predicate = &statement["predicate"];
    let page = Page { disclosed: &certificate.disclosed };
    let text = |value: &Json| escaped(value.as_str().unwrap_or("?"));
    let weakest = &predicate["weakest"];
    let mut body = format!(
        "<h1>Certificate of erasure</h1><p>Plane <code>{}</code> was purged on <b>{}</b>.</p>\
         <p class=weakest>At its weakest: <b>{}</b> ({}). NIST SP 800-88: <b>{}</b>.</p>",
        text(&predicate["plane"]["id"]),
        text(&predicate["purged_at"]),
        text(&weakest["method"]),
        text(&weakest["what"]),
        text(&weakest["nist_sp_800_88"]),
    );
    for (heading, place) in SECTIONS {
        body += &format!("<h2>{}</h2>", escaped(heading));
        if place.is_empty() {
            let rows = FACTS.iter().map(|name| page.row(name, &predicate[*name], "/predicate"));
            body += &format!("<table>{}</table>", rows.collect::<String>());
        } else {
            body += &page.value(&predicate[*place], &format!("/predicate/{place}"));
        }
    }
    let digest = lethe_stages::canonical::sha256(lethe_stages::canonical::text(statement).unwrap_or_default().as_bytes());
    let keys = certificate.envelope.signatures.iter().map(|one| escaped(&one.keyid)).collect::<Vec<_>>().join(", ");
    let leaves = certificate.log.iter().flat_map(|log| &log.entries).map(|entry| entry.leaf_index.to_string());
    let leaves = leaves.collect::<Vec<_>>().join(", ");
    body += &format!(
        "<h2>How to check it</h2><p>This page proves nothing. The JSON file beside it does: <code>lethe-verify certificate FILE --key VKEY</code>, \
         with the log's public key from a place that you trust.</p><table><tr><th>statement</th><td><code>{digest}</code></td></tr>\
         <tr><th>signed by</th><td><code>{keys}</code></td></tr><tr><th>leaves of the log</th><td>{}</td></tr></table>",
        if leaves.is_empty() { "not sealed yet".to_owned() } else { leaves },
    );
    format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\"><meta name=viewport content=\"width=device-width\">\
         <title>Certificate of erasure</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whatever_is_said_is_text() {
        let statement = json!({"predicate": {"plane": {"id": "<script>alert('x')</script>"}, "methods": [{"what": "a & \"b\"\u{202e}"}],
            "tenant": {"name": {"commitment": "sha256:aa"}}, "requested": {"by": {"commitment": "sha256:bb"}}}});
        let envelope =
            serde_json::from_value(json!({"payload": "", "payloadType": "", "signatures": [{"keyid": "<k>", "sig": ""}]}));
        let disclosed = Disclosed { value: "<b>acme</b>".into(), salt: String::new() };
        let certificate = Certificate {
            format: String::new(),
            envelope: envelope.unwrap(),
            log: None,
            disclosed: [("/predicate/tenant/name".to_owned(), disclosed)].into(),
        };
        let page = page(&certificate, &statement);
        assert!(
            !page.contains("<script") && !page.contains("<b>acme") && !page.contains('\u{202e}') && !page.contains("<k>"),
            "{page}"
        );
        assert!(page.contains("&lt;b&gt;acme&lt;/b&gt;") && page.contains("a &amp; &quot;b&quot;\\u{202e}"), "{page}");
        assert!(page.contains("committed to as</span> <code>sha256:bb"), "{page}");
        SECTIONS.iter().for_each(|(heading, _)| assert!(page.contains(&format!("<h2>{heading}</h2>")), "{heading}"));
    }
}
