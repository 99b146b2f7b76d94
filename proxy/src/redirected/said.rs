//! What has a connection said so far? Looked at without reading, so that whoever answers it hears all of it.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::drain::Drain;
use crate::http::last_word;
use crate::tcp::hello::MAX_HELLO;

/// The first bytes of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) bytes: Vec<u8>,
    /// It has ended, or said no more for as long as we listen.
    pub(super) is_all: bool,
}

// === impl Said ===

impl Said {
    /// Waits for the first byte, and after that for more of a ClientHello.
    pub(super) async fn listen(&mut self, stream: &TcpStream, since: Instant, drain: Drain) {
        let end = tokio::time::Instant::from_std(since) + PATIENCE;
        tokio::select! {
            biased;
            heard = tokio::time::timeout_at(end, self.hear(stream)) => self.is_all |= heard.is_err(),
            () = last_word(drain) => self.is_all = true,
        }
    }

    async fn hear(&mut self, stream: &TcpStream) {
        // Most say with their first byte all that we need.
        let size = if self.bytes.is_empty() { 1 } else { MAX_HELLO + 1 };
        let (mut heard, mut pause) = (vec![0; size], PEEK_AGAIN);
        loop {
            match stream.peek(&mut heard).await {
                Ok(0) | Err(_) => {
                    self.is_all = true;
                    return;
                }
                Ok(more) if more > self.bytes.len() => {
                    heard.truncate(more);
                    self.bytes = heard;
                    return;
                }
                // Who dribbles must not make us look again and again.
                Ok(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(PEEK_SELDOM);
        }
    }
}

/// How long we listen: as long as a connection without a request is kept.
const PATIENCE: Duration = Duration::from_secs(60);
const PEEK_AGAIN: Duration = Duration::from_millis(1);
const PEEK_SELDOM: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn what_was_heard_can_still_be_read() {
        let (mut near, mut far) = pair().await;
        let (_signal, drain) = crate::drain::channel();
        let (mut said, start) = (Said::default(), Instant::now());
        near.write_all(b"one").await.unwrap();
        said.listen(&far, start, drain.clone()).await;
        assert_eq!(said.bytes, b"o", "the first byte is enough for most");
        said.listen(&far, start, drain.clone()).await;
        assert_eq!(said.bytes, b"one");
        let more = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            near.write_all(b"two").await.unwrap();
        };
        tokio::join!(said.listen(&far, start, drain), more);
        assert_eq!((said.bytes.as_slice(), said.is_all), (&b"onetwo"[..], false));
        let mut read = [0; 6];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"onetwo");
    }

    #[tokio::test]
    async fn who_says_nothing_is_not_waited_for_for_ever() {
        let (near, far) = pair().await;
        let (signal, drain) = crate::drain::channel();
        let mut said = Said::default();
        let long_ago = Instant::now().checked_sub(PATIENCE).unwrap();
        said.listen(&far, long_ago, drain.clone()).await;
        assert!(said.is_all && said.bytes.is_empty());

        signal.start();
        let mut said = Said::default();
        said.listen(&far, Instant::now(), drain.clone()).await;
        assert!(said.is_all, "the end of us is the end of the wait");

        let (_signal, drain) = crate::drain::channel();
        drop(near);
        let mut said = Said::default();
        said.listen(&far, Instant::now(), drain).await;
        assert!(said.is_all && said.bytes.is_empty());
    }
}
