//! What the bytes of a frame belong to.

/// What bytes belong to: a rank that is at another place of the run is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Topic {
    /// Of a rank, for rank 0.
    Gather,
    /// Of all ranks, from rank 0.
    Gathered,
    /// Of rank 0, for all.
    Broadcast,
    /// A piece of the running sum.
    Onward,
    /// A piece of the total.
    Back,
    /// The result of an item of work, for rank 0.
    Item,
}

impl Topic {
    /// Names what bytes of this number belong to, for messages.
    pub(super) fn named(number: u8) -> &'static str {
        let all = [Self::Gather, Self::Gathered, Self::Broadcast, Self::Onward, Self::Back, Self::Item];
        match all.into_iter().find(|topic| *topic as u8 == number) {
            Some(Self::Gather | Self::Gathered) => "what all compare",
            Some(Self::Broadcast) => "what rank 0 tells all",
            Some(Self::Onward | Self::Back) => "a gradient",
            Some(Self::Item) => "a result",
            None => "something unknown",
        }
    }
}
