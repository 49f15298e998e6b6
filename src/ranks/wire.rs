//! What carries frames between ranks.

/// A connection of one rank with the others. Frames of one sender arrive in the order in which they were sent.
pub(super) trait Wire {
    /// Queues a frame for a rank. The call does not wait for the receiver.
    fn send(&mut self, to: usize, frame: Vec<u8>) -> Result<(), Lost>;

    /// Moves queued frames on, and returns the next frame that has arrived, with its sender. The call does not wait.
    fn poll(&mut self) -> Result<Option<(usize, Vec<u8>)>, Lost>;

    /// Whether all queued frames have left this process.
    fn is_flushed(&self) -> bool;

    /// Ends the connection: `clean` if all ranks do so, else because a rank has failed.
    fn close(&mut self, clean: bool);
}

/// A rank that cannot be reached any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// Its number.
    pub rank: usize,
    /// What was observed.
    pub why: String,
}

/// A frame as the ranks' threads read it. Its last bytes say what it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// The sender lives.
    Beat,
    /// Bytes for the receiver's main thread, and the number of what they belong to.
    Data(u8, Vec<u8>),
    /// A rank has failed, with the whole message.
    Failed(String),
    /// The sender is done and will not send any more.
    Bye,
}

const BEAT: u8 = 0;
const DATA: u8 = 1;
const FAILED: u8 = 2;
const BYE: u8 = 3;

impl Frame {
    /// Returns its bytes.
    pub fn encoded(self) -> Vec<u8> {
        match self {
            Self::Beat => vec![BEAT],
            Self::Data(topic, mut bytes) => {
                bytes.extend([topic, DATA]);
                bytes
            }
            Self::Failed(text) => {
                let mut bytes = text.into_bytes();
                bytes.push(FAILED);
                bytes
            }
            Self::Bye => vec![BYE],
        }
    }

    /// Reads a frame; `None` if it is none of ours.
    pub fn decoded(mut bytes: Vec<u8>) -> Option<Self> {
        match (bytes.pop()?, bytes.is_empty()) {
            (BEAT, true) => Some(Self::Beat),
            (BYE, true) => Some(Self::Bye),
            (DATA, false) => bytes.pop().map(|topic| Self::Data(topic, bytes)),
            (FAILED, _) => Some(Self::Failed(String::from_utf8_lossy(&bytes).into_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_others_are_none() {
        let text = "rank 2 is gone".to_string();
        let frames = || {
            [
                Frame::Beat,
                Frame::Data(7, vec![1, 2]),
                Frame::Data(0, Vec::new()),
                Frame::Failed(text.clone()),
                Frame::Bye,
            ]
        };
        for (frame, expected) in frames().into_iter().zip(frames()) {
            assert_eq!(Frame::decoded(frame.encoded()), Some(expected));
        }
        for other in [vec![], vec![1], vec![9], vec![5, 0]] {
            assert_eq!(Frame::decoded(other), None);
        }
    }
}
