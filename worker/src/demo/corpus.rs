//! The text that `lethe demo` makes a little knowledge base of: read from a folder or built in, and cut into chunks.
//!
//! The rule: the same bytes give the same documents and the same chunks, in the same order. What is passed over or
//! repaired on the way is counted and said, never dropped in silence.
//! If we die in it: nothing has happened. This module only reads.
//!
//! `config/demo-docs/` holds the built-in corpus: twelve invented documents of two invented tenants, `acme` (a web shop:
//! handbook, returns, API, incidents, questions, glossary) and `globex` (a seed bank: cold store, germination, glasshouse,
//! laboratory, exchange, visitors). They were written for this demo, name no real person or company, and may be copied
//! freely. Every file in that folder is corpus, so it has no README.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// A text with a name that is unique within its corpus: the path below the folder, with `/` on every platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) name: String,
    /// Without markup where it was HTML; not empty, and without NUL, which PostgreSQL cannot hold in a text.
    pub(crate) text: String,
}

/// A piece of a document. `ordinal` counts from 0 within the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) document: String,
    pub(crate) ordinal: usize,
    pub(crate) text: String,
}

/// Files that were not read, by reason, and those that were repaired.
#[derive(Debug, Default, PartialEq, Eq)]
struct Notes {
    other_kind: usize,
    too_large: usize,
    symlinks: usize,
    hidden: usize,
    without_text: usize,
    unnameable: usize,
    /// Read, but not UTF-8: what could not be decoded has become U+FFFD.
    lossy: Vec<String>,
}

impl fmt::Display for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.other_kind, "of another kind"),
            (self.too_large, "larger than 5 MB"),
            (self.symlinks, "symbolic links"),
            (self.hidden, "hidden"),
            (self.without_text, "without text"),
            (self.unnameable, "whose name is not UTF-8"),
        ];
        let said: Vec<_> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!("{n} {why}")).collect();
        if said.is_empty() { f.write_str("nothing") } else { f.write_str(&said.join(", ")) }
    }
}

/// A folder that cannot be a corpus. Each message says what would be right.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CorpusError {
    #[error(
        "read the folder {0}: it does not exist; name a folder with .txt, .md or .html files, or none for the built-in documents"
    )]
    Absent(PathBuf),
    #[error("read the folder {0}: it is a file; name the folder that it lies in")]
    NotAFolder(PathBuf),
    #[error(
        "read the folder {folder}: it holds no text (passed over: {passed_over}); put .txt, .md, .markdown, .html or .htm files of up to 5 MB in it"
    )]
    Empty { folder: PathBuf, passed_over: String },
    #[error("read {path}; allow this user to read it, or move it out of the folder")]
    Unreadable { path: PathBuf, source: io::Error },
}

const FILE_SIZE_MAX_BYTES: u64 = 5 * 1000 * 1000;

/// Reads `dir` and everything below it, sorted by name.
pub(crate) fn read_folder(dir: &Path) -> Result<Vec<Document>, CorpusError> {
    let (documents, notes) = survey(dir)?;
    if notes != Notes::default() {
        tracing::info!(folder = %dir.display(), documents = documents.len(), passed_over = %notes, "read the demo folder");
    }
    for name in &notes.lossy {
        tracing::warn!(document = %name, "the file is not UTF-8; what could not be decoded is replaced by U+FFFD");
    }
    Ok(documents)
}

/// Without recursion and without following links: neither a deep folder nor a loop can exhaust us.
fn survey(dir: &Path) -> Result<(Vec<Document>, Notes), CorpusError> {
    match fs::metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(CorpusError::Absent(dir.into())),
        Err(source) => return Err(CorpusError::Unreadable { path: dir.into(), source }),
        Ok(metadata) if !metadata.is_dir() => return Err(CorpusError::NotAFolder(dir.into())),
        Ok(_) => {}
    }
    let (mut documents, mut notes) = (Vec::new(), Notes::default());
    let mut folders = vec![(dir.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        let unreadable = |source| CorpusError::Unreadable { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let path = entry.path();
            let unreadable = |source| CorpusError::Unreadable { path: path.clone(), source };
            // Of the entry itself, not of what a link points to.
            let metadata = entry.metadata().map_err(unreadable)?;
            let file_name = entry.file_name();
            let Some(file_name) = file_name.to_str() else {
                notes.unnameable += 1;
                continue;
            };
            let name = format!("{prefix}{file_name}");
            if file_name.starts_with('.') {
                notes.hidden += 1;
            } else if metadata.is_symlink() {
                notes.symlinks += 1;
            } else if metadata.is_dir() {
                folders.push((path, format!("{name}/")));
            } else if !metadata.is_file() || Kind::of(file_name).is_none() {
                notes.other_kind += 1;
            } else if metadata.len() > FILE_SIZE_MAX_BYTES {
                notes.too_large += 1;
            } else {
                let bytes = fs::read(&path).map_err(unreadable)?;
                if std::str::from_utf8(&bytes).is_err() {
                    notes.lossy.push(name.clone());
                }
                match document(&name, &bytes) {
                    Some(document) => documents.push(document),
                    None => notes.without_text += 1,
                }
            }
        }
    }
    if documents.is_empty() {
        return Err(CorpusError::Empty { folder: dir.into(), passed_over: notes.to_string() });
    }
    documents.sort_by(|a, b| a.name.cmp(&b.name));
    notes.lossy.sort();
    Ok((documents, notes))
}

/// The documents of `config/demo-docs/`, compiled in, so that the binary needs no folder. As [`read_folder`] would read them.
pub(crate) fn built_in() -> Vec<Document> {
    macro_rules! files {
        ($($name:literal),* $(,)?) => { [$(($name, include_str!(concat!("../../../config/demo-docs/", $name)))),*] };
    }
    let files = files![
        "acme/api-guide.md",
        "acme/faq.html",
        "acme/glossary.txt",
        "acme/handbook.md",
        "acme/incident-runbook.md",
        "acme/returns-policy.md",
        "globex/cold-store.md",
        "globex/exchange-agreement.md",
        "globex/germination-protocol.md",
        "globex/greenhouse-climate.md",
        "globex/lab-safety.txt",
        "globex/visitor-guide.html",
    ];
    files.iter().filter_map(|(name, text)| document(name, text.as_bytes())).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Html,
}

impl Kind {
    fn of(name: &str) -> Option<Kind> {
        match name.rsplit_once('.')?.1.to_ascii_lowercase().as_str() {
            "txt" | "md" | "markdown" => Some(Kind::Plain),
            "html" | "htm" => Some(Kind::Html),
            _ => None,
        }
    }
}

/// `None` where there is nothing to read in it.
fn document(name: &str, bytes: &[u8]) -> Option<Document> {
    let decoded = String::from_utf8_lossy(bytes);
    let decoded = decoded.trim_start_matches('\u{feff}');
    let text = if Kind::of(name) == Some(Kind::Html) { html_to_text(decoded) } else { decoded.to_string() };
    let text = text.replace('\0', "\u{fffd}");
    (!text.trim().is_empty()).then(|| Document { name: name.to_string(), text })
}

/// Cuts a document into chunks of at most `size` characters, each beginning `overlap` characters before the one before it ends.
///
/// A chunk ends at white space where there is some in its last 15 %, otherwise in mid-word; never within a character. Together
/// the chunks cover the whole text, unchanged. A `size` of 0 counts as 1, and an overlap of more than half a chunk as half, so
/// that every chunk gets further than the one before it.
pub(crate) fn chunk(document: &Document, size: usize, overlap: usize) -> Vec<Chunk> {
    let size = size.max(1);
    let overlap = overlap.min(size / 2);
    let characters: Vec<(usize, char)> = document.text.char_indices().collect();
    let offset = |at: usize| characters.get(at).map_or(document.text.len(), |(offset, _)| *offset);
    let is_space = |at: usize| characters[at].1.is_whitespace();
    let (mut chunks, mut start) = (Vec::new(), 0);
    while start < characters.len() {
        let hard = start.saturating_add(size).min(characters.len());
        let end = if hard == characters.len() {
            hard
        } else {
            let earliest = (hard - size * 15 / 100).max(start + 1);
            (earliest..=hard).rev().find(|&at| is_space(at) || is_space(at - 1)).unwrap_or(hard)
        };
        let text = document.text[offset(start)..offset(end)].to_string();
        chunks.push(Chunk { document: document.name.clone(), ordinal: chunks.len(), text });
        if end == characters.len() {
            break;
        }
        start = end - overlap;
    }
    chunks
}

/// Elements that begin a new line. All others, save table cells, are part of the line they stand in.
const BLOCKS: &[&str] = &[
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "br",
    "caption",
    "dd",
    "details",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "head",
    "header",
    "hr",
    "html",
    "legend",
    "li",
    "main",
    "nav",
    "ol",
    "option",
    "p",
    "pre",
    "section",
    "summary",
    "table",
    "tbody",
    "tfoot",
    "thead",
    "title",
    "tr",
    "ul",
];

/// What a reader would see, roughly: enough to search in, not a browser. One pass, linear in the length, whatever the input.
fn html_to_text(html: &str) -> String {
    let mut out = String::with_capacity(html.len() / 2);
    let mut rest = html;
    while let Some(first) = rest.chars().next() {
        let used = match first {
            '<' if rest.starts_with("<!--") => rest[4..].find("-->").map_or(rest.len(), |at| at + 7),
            '<' if rest[1..].starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?')) => {
                let mut end = tag_length(rest);
                let name = rest[1..end].split(|c: char| !c.is_ascii_alphanumeric() && c != '/').next().unwrap_or_default();
                let name = name.trim_matches('/').to_ascii_lowercase();
                if BLOCKS.contains(&name.as_str()) {
                    break_line(&mut out);
                } else if name == "td" || name == "th" {
                    push(&mut out, ' ');
                } else if (name == "script" || name == "style") && !rest.starts_with("</") {
                    let closing = format!("</{name}");
                    let inside = &rest.as_bytes()[end..];
                    let length = inside.windows(closing.len()).position(|w| w.eq_ignore_ascii_case(closing.as_bytes()));
                    end = length.map_or(rest.len(), |length| end + length);
                }
                end
            }
            '&' => match entity(rest) {
                Some((character, length)) => {
                    push(&mut out, character);
                    length
                }
                None => {
                    push(&mut out, '&');
                    1
                }
            },
            other => {
                push(&mut out, other);
                other.len_utf8()
            }
        };
        rest = &rest[used..];
    }
    break_line(&mut out);
    out
}

/// Length of the tag that `rest` begins with: up to the `>` that is not within quotes, or everything where there is none.
fn tag_length(rest: &str) -> usize {
    let mut quote = None;
    for (at, byte) in rest.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return at + 1,
            // An apostrophe is a quote only after "=": `<p o'clock>` must not swallow the page.
            (None, b'"' | b'\'') if rest[..at].trim_end().ends_with('=') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    rest.len()
}

/// Runs of white space, also non-breaking ones, become one space; a line does not begin with one.
fn push(out: &mut String, character: char) {
    if !character.is_whitespace() {
        out.push(character);
    } else if !out.is_empty() && !out.ends_with([' ', '\n']) {
        out.push(' ');
    }
}

fn break_line(out: &mut String) {
    out.truncate(out.trim_end_matches(' ').len());
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
}

/// The character that the entity at the beginning of `rest` stands for, and its length; `None` where it is only an ampersand.
fn entity(rest: &str) -> Option<(char, usize)> {
    let end = rest.bytes().take(12).position(|byte| byte == b';')?;
    let name = &rest[1..end];
    let character = if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        char::from_u32(code).unwrap_or('\u{fffd}')
    } else {
        ENTITIES.iter().find(|(known, _)| *known == name)?.1
    };
    Some((character, end + 1))
}

#[rustfmt::skip]
const ENTITIES: &[(&str, char)] = &[
    ("amp", '&'), ("lt", '<'), ("gt", '>'), ("quot", '"'), ("apos", '\''), ("nbsp", '\u{a0}'), ("shy", '\u{ad}'),
    ("ndash", '–'), ("mdash", '—'), ("lsquo", '‘'), ("rsquo", '’'), ("sbquo", '‚'), ("ldquo", '“'), ("rdquo", '”'), ("bdquo", '„'),
    ("laquo", '«'), ("raquo", '»'), ("hellip", '…'), ("bull", '•'), ("middot", '·'), ("sect", '§'), ("para", '¶'),
    ("copy", '©'), ("reg", '®'), ("trade", '™'), ("euro", '€'), ("pound", '£'), ("yen", '¥'), ("cent", '¢'),
    ("deg", '°'), ("plusmn", '±'), ("minus", '−'), ("times", '×'), ("divide", '÷'), ("micro", 'µ'), ("frac12", '½'), ("frac14", '¼'),
    ("larr", '←'), ("rarr", '→'), ("le", '≤'), ("ge", '≥'), ("ne", '≠'), ("iexcl", '¡'), ("iquest", '¿'),
    ("auml", 'ä'), ("ouml", 'ö'), ("uuml", 'ü'), ("Auml", 'Ä'), ("Ouml", 'Ö'), ("Uuml", 'Ü'), ("szlig", 'ß'),
    ("aacute", 'á'), ("agrave", 'à'), ("acirc", 'â'), ("atilde", 'ã'), ("aring", 'å'), ("aelig", 'æ'), ("ccedil", 'ç'),
    ("eacute", 'é'), ("egrave", 'è'), ("ecirc", 'ê'), ("euml", 'ë'), ("Eacute", 'É'), ("iacute", 'í'), ("icirc", 'î'), ("iuml", 'ï'),
    ("ntilde", 'ñ'), ("oacute", 'ó'), ("ocirc", 'ô'), ("otilde", 'õ'), ("oslash", 'ø'), ("uacute", 'ú'), ("ugrave", 'ù'),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, text: &str) -> Document {
        Document { name: name.into(), text: text.into() }
    }

    /// Puts the chunks together again, checking that each begins `overlap` characters before the end of the one before it.
    fn joined(chunks: &[Chunk], overlap: usize) -> String {
        let mut whole: Vec<char> = Vec::new();
        for (ordinal, chunk) in chunks.iter().enumerate() {
            assert_eq!(chunk.ordinal, ordinal);
            let characters: Vec<char> = chunk.text.chars().collect();
            let shared = if ordinal == 0 { 0 } else { overlap };
            assert_eq!(whole[whole.len() - shared..], characters[..shared], "chunk {ordinal} overlaps the one before it");
            whole.extend(&characters[shared..]);
        }
        whole.into_iter().collect()
    }

    #[test]
    fn chunks_cover_the_text_and_overlap() {
        for document in built_in() {
            let chunks = chunk(&document, 500, 50);
            assert_eq!(joined(&chunks, 50), document.text);
            assert!(chunks.iter().all(|chunk| chunk.document == document.name && chunk.text.chars().count() <= 500));
            for pair in chunks.windows(2) {
                assert!(pair[0].text.chars().count() >= 425);
                let next = pair[1].text.chars().nth(50);
                let at_space = pair[0].text.ends_with(char::is_whitespace) || next.is_none_or(char::is_whitespace);
                assert!(at_space, "a chunk of prose ends at white space: {:?}", pair[0].text);
            }
        }
    }

    #[test]
    fn multi_byte_text_without_white_space_is_cut_between_characters() {
        let document = named("x.txt", &"日本語🦀é".repeat(100));
        let chunks = chunk(&document, 64, 8);
        assert_eq!(joined(&chunks, 8), document.text);
        assert!(chunks.iter().rev().skip(1).all(|chunk| chunk.text.chars().count() == 64));
    }

    #[test]
    fn no_size_and_no_overlap_make_it_loop() {
        let document = named("x.txt", "one two  three\n\nfour   five");
        for size in [0, 1, 2, 3, 5, 7, 100, usize::MAX / 100] {
            for overlap in [0, 1, 2, 6, 100, usize::MAX] {
                assert_eq!(joined(&chunk(&document, size, overlap), overlap.min(size.max(1) / 2)), document.text);
            }
        }
        assert_eq!(chunk(&named("empty.txt", ""), 500, 50), []);
    }

    #[test]
    fn html_becomes_the_text_that_a_reader_sees() {
        let html = "<!DOCTYPE html><title>A &amp; B</title><STYLE>p > a {}</STYLE ><script>if (a < b) '</p>'</Script>\n\
                    <!-- <p>not this --><h1>Caf&eacute;</h1><p class='x>y' id=\"a'b\">1 < 2&nbsp;&#8211; <b>bo</b>ld&#x21;<br/>R&D &unknown; &amp;lt;\
                    <table><tr><td>x</td><td>y</td></table> it&#0;s <p o'clock>late</p> <unclosed";
        let read = "A & B\nCafé\n1 < 2 – bold!\nR&D &unknown; &lt;\nx y\nit\u{0}s\nlate\n";
        assert_eq!(html_to_text(html), read);
        assert_eq!(document("a.HTM", html.as_bytes()).expect("it has text").text, read.replace('\0', "\u{fffd}"));
        assert_eq!(html_to_text("<script>never closed <p>é"), "");
        assert_eq!(html_to_text("<"), "<\n");
        assert_eq!(html_to_text("&é;&#xD800;"), "&é;\u{fffd}\n");
    }

    #[test]
    fn the_built_in_documents_are_exactly_the_folder() {
        let (documents, notes) = survey(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/demo-docs"))).expect("read it");
        assert_eq!(documents, built_in());
        assert_eq!(notes, Notes::default());
        assert!(documents.iter().all(|document| !document.text.contains("console.log") && !document.text.contains("&nbsp;")));
    }

    #[test]
    fn what_cannot_be_read_is_passed_over_and_counted() {
        let dir = tempfile::tempdir().expect("make a folder");
        let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).expect("write a file");
        fs::create_dir_all(dir.path().join("b/.git")).expect("make a folder");
        write("b/z.md", b"last");
        write("b/a.TXT", b"\xef\xbb\xbfcaf\xe9");
        write("a.txt", "first".as_bytes());
        write(".hidden.md", b"hidden");
        write("picture.png", b"png");
        write("blank.md", b" \n");
        write("large.txt", &vec![b'a'; 5_000_001]);
        #[cfg(unix)]
        std::os::unix::fs::symlink(dir.path(), dir.path().join("loop")).expect("make a link");
        let (documents, notes) = survey(dir.path()).expect("read it");
        assert_eq!(documents, [named("a.txt", "first"), named("b/a.TXT", "caf\u{fffd}"), named("b/z.md", "last")]);
        assert_eq!(notes.lossy, ["b/a.TXT"]);
        let said = notes.to_string();
        assert!(
            said.starts_with("1 of another kind, 1 larger than 5 MB, ") && said.ends_with("2 hidden, 1 without text"),
            "{said}"
        );
        assert_eq!(read_folder(dir.path()).expect("read it"), documents);
    }

    #[test]
    fn a_folder_without_text_is_an_error_that_says_what_would_be_right() {
        let dir = tempfile::tempdir().expect("make a folder");
        let message = |path: &Path| read_folder(path).expect_err("not a corpus").to_string();
        assert!(message(dir.path()).contains("put .txt, .md"));
        assert!(message(&dir.path().join("absent")).contains("does not exist; name a folder"));
        fs::write(dir.path().join("x.md"), "x").expect("write a file");
        assert!(message(&dir.path().join("x.md")).contains("name the folder that it lies in"));
    }
}
