//! Lets every TCP connection of this process send at once (`TCP_NODELAY`). sqlx 0.9.0 connects without it, and a statement of more than one
//! segment, or of more than one TLS record, then waits 40 ms for the server's acknowledgement (its issue 4335; mended there, not released).
//!
//! The rule: it changes when bytes leave and nothing else. sqlx hands out no socket, so each socket of the process is looked up in `/proc`
//! and borrowed by `pidfd_getfd(2)`. Where that is not allowed (Linux before 5.6, some sandboxes), everything works on, more slowly.
//! This crate goes away with sqlx 0.9.1.

/// Sets it on every connection there is. To be called after one was made.
pub fn set() {
    #[cfg(target_os = "linux")]
    // A sandbox that forbids it forbids it always.
    drop(linux::set());
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{io, os::fd::OwnedFd};

    use rustix::{
        net::sockopt::set_tcp_nodelay,
        process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
    };

    pub(super) fn set() -> io::Result<()> {
        let own = pidfd_open(getpid(), PidfdFlags::empty())?;
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let path = entry?.path();
            let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            let is_socket =
                std::fs::read_link(&path).is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
            if let (Some(number), true) = (number, is_socket) {
                let socket: OwnedFd = pidfd_getfd(&own, number, PidfdGetfdFlags::empty())?;
                // Others than TCP's do not know it.
                let _ = set_tcp_nodelay(&socket, true);
            }
        }
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_that_was_made_before_sends_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!client.nodelay().unwrap());
        super::set();
        assert!(client.nodelay().unwrap());
    }
}
