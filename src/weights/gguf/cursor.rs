//! Reads forwards through bytes that may end anywhere.

/// What is wrong with a header, without the file's name.
pub(super) type Parsed<T> = std::result::Result<T, String>;

/// A position in bytes.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    /// Remaining bytes.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        if count > self.left() {
            return Err(format!("at byte {} it needs {count} more, but {} are left", self.at, self.left()));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub fn u32(&mut self) -> Parsed<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Parsed<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of items of at least `size` bytes each, checked against the remaining bytes.
    pub fn count(&mut self, what: &str, size: usize) -> Parsed<usize> {
        let (claimed, most) = (self.u64()?, self.left() / size);
        usize::try_from(claimed).ok().filter(|count| *count <= most).ok_or_else(|| {
            format!("it claims {claimed} {what}, but the rest of the file holds {most} at most")
        })
    }

    /// Text: a length of 8 bytes, then UTF-8.
    pub fn text(&mut self) -> Parsed<&'a str> {
        let (start, length) = (self.at, self.count("bytes of text", 1)?);
        std::str::from_utf8(self.take(length)?).map_err(|_| format!("the text at byte {start} is not UTF-8"))
    }
}
