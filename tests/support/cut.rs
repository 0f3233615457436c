//! A wire to a server that can be cut: while it is cut nobody gets through, and the answer to a commit can be swallowed.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// A proxy in front of a server.
pub struct Wire {
    pub port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    cut: AtomicBool,
    swallow: AtomicBool,
    swallowed: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Wire {
    /// A wire to the server of a PostgreSQL URL, and the URL that goes through it.
    pub fn before(url: &str) -> (Self, String) {
        let (_, rest) = url.rsplit_once('@').expect("who");
        let host = rest.split('/').next().expect("a host");
        let wire = Self::to(host);
        // In the clear, so that a commit can be seen.
        let url = format!("{}?sslmode=disable", url.replace(host, &format!("127.0.0.1:{}", wire.port)));
        (wire, url)
    }

    /// A wire to `host:port`.
    pub fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State::default());
        let (shared, server) = (state.clone(), server.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(upstream) = TcpStream::connect(&server) else { continue };
                shared.open.lock().unwrap().extend([client.try_clone().unwrap(), upstream.try_clone().unwrap()]);
                let committing = Arc::new(AtomicBool::new(false));
                let (to, from, state, flag) =
                    (upstream.try_clone().unwrap(), client.try_clone().unwrap(), shared.clone(), committing.clone());
                thread::spawn(move || {
                    pass(from, to, |bytes| {
                        if state.swallow.load(Ordering::SeqCst) && bytes.windows(7).any(|word| word == b"COMMIT\0") {
                            state.swallow.store(false, Ordering::SeqCst);
                            flag.store(true, Ordering::SeqCst);
                        }
                        true
                    })
                });
                let state = shared.clone();
                thread::spawn(move || {
                    pass(upstream, client, |_| {
                        let swallowed = committing.load(Ordering::SeqCst);
                        state.swallowed.fetch_add(u64::from(swallowed), Ordering::SeqCst);
                        !swallowed
                    })
                });
            }
        });
        Self { port, state }
    }

    /// Cuts every connection, and lets none through until it is mended.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
        self.state.open.lock().unwrap().drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.state.cut.store(false, Ordering::SeqCst);
    }

    /// Cuts the next connection that commits, after the server has done it and before its answer gets through.
    pub fn swallow_next_commit(&self) {
        self.state.swallow.store(true, Ordering::SeqCst);
    }

    /// Answers to commits that were swallowed.
    pub fn swallowed(&self) -> u64 {
        self.state.swallowed.load(Ordering::SeqCst)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 16384];
    let _ = from.set_read_timeout(Some(Duration::from_secs(600)));
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !look(&buffer[..length]) || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
