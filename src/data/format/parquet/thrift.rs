//! Thrift's compact protocol, as far as counts, sizes and depths must be known before the library reads the same bytes:
//! it allocates what they say. `None` is a text that ends too early or that no writer produces.
//!
//! Format: <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md> and Parquet's
//! `parquet.thrift`.

/// Structures inside one another that are still read.
const DEPTH: usize = 32;

/// The wire types that matter here.
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// An unsigned number of variable length (LEB128), which is consumed. Levels and encodings have it as well.
pub(super) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.split_off_first()?;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A position in a text.
struct Thrift<'a> {
    rest: &'a [u8],
}

impl Thrift<'_> {
    fn skip_bytes(&mut self, count: usize) -> Option<()> {
        self.rest = self.rest.get(count..)?;
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn varint(&mut self) -> Option<u64> {
        varint(&mut self.rest)
    }

    /// An integer that the library reads as one of 32 bits, without cutting it.
    fn int32(&mut self) -> Option<i64> {
        self.integer().filter(|number| i32::try_from(*number).is_ok())
    }

    fn integer(&mut self) -> Option<i64> {
        let value = self.varint()?;
        // Zigzag: the lowest bit is the sign.
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// The fields of a structure, each with its number and type, which `field` must consume. Their numbers must ascend, as
    /// all writers have them: the library takes the last of repeated fields, and cuts numbers to 16 bits.
    fn fields(&mut self, field: &mut dyn FnMut(&mut Self, i64, u8) -> Option<()>) -> Option<()> {
        let mut number = 0_i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            let next = match head >> 4 {
                0 => self.integer()?,
                step => number.checked_add(i64::from(step))?,
            };
            if next <= number || next > i64::from(i16::MAX) {
                return None;
            }
            number = next;
            field(self, number, head & 0x0F)?;
        }
    }

    /// The number of elements of a list and their type. An element has at least one byte.
    fn list(&mut self) -> Option<(usize, u8)> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => usize::try_from(self.varint()?).ok()?,
            few => usize::from(few),
        };
        (count <= self.rest.len()).then_some((count, head & 0x0F))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            // Booleans are in the type of their field.
            1 | 2 => Some(()),
            3 => self.skip_bytes(1),
            4..=6 => self.varint().map(drop),
            7 => self.skip_bytes(8),
            BINARY => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.skip_bytes(length)
            }
            LIST | 10 => {
                let (count, kind) = self.list()?;
                (0..count).try_for_each(|_| self.skip_element(kind, depth))
            }
            11 => {
                let count = self.varint()?;
                if count == 0 {
                    return Some(());
                }
                let kinds = self.byte()?;
                (0..count).try_for_each(|_| {
                    self.skip_element(kinds >> 4, depth)?;
                    self.skip_element(kinds & 0x0F, depth)
                })
            }
            STRUCT => self.fields(&mut |thrift, _, kind| thrift.skip(kind, depth)),
            13 => self.skip_bytes(16),
            _ => None,
        }
    }

    /// In a list, a boolean is a byte.
    fn skip_element(&mut self, kind: u8, depth: usize) -> Option<()> {
        if matches!(kind, 1 | 2) { self.skip_bytes(1) } else { self.skip(kind, depth) }
    }
}

/// What the header of a page says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PageHeader {
    /// The length of the header itself, in bytes.
    pub(super) length: usize,
    /// 0 and 3 are data pages, 2 is a dictionary, 1 an index.
    pub(super) kind: i64,
    pub(super) unpacked: i64,
    pub(super) packed: i64,
    pub(super) values: i64,
    /// Parquet's number of the encoding of the values.
    pub(super) encoding: i64,
    /// The bytes of levels before the compressed part (data pages of version 2).
    pub(super) levels: i64,
    /// Whether the page is stored as it is although its column is compressed.
    pub(super) stored: bool,
}

/// Reads the header of the page that `text` begins with.
pub(super) fn page_header(text: &[u8]) -> Option<PageHeader> {
    let mut thrift = Thrift { rest: text };
    let (mut header, mut seen) = (PageHeader::default(), None);
    thrift.fields(&mut |thrift, number, kind| {
        match (number, kind) {
            (1, 5) => header.kind = thrift.int32()?,
            (2, 5) => header.unpacked = thrift.int32()?,
            (3, 5) => header.packed = thrift.int32()?,
            // The data page, the dictionary and the data page of version 2.
            (5 | 7 | 8, STRUCT) => {
                if seen.replace(number).is_some() {
                    return None;
                }
                contents(thrift, number == 8, &mut header)?;
            }
            // The library reads these whatever their type.
            (1..=3 | 5 | 7 | 8, _) => return None,
            _ => thrift.skip(kind, DEPTH)?,
        }
        Some(())
    })?;
    // The library takes the structure that belongs to the kind of the page.
    let fits = matches!((header.kind, seen), (0, Some(5)) | (2, Some(7)) | (3, Some(8)) | (1, None));
    if !fits {
        return None;
    }
    header.length = text.len() - thrift.rest.len();
    Some(header)
}

/// Reads the structure of a data page, of a dictionary, or of a data page of version 2.
fn contents(thrift: &mut Thrift, second: bool, header: &mut PageHeader) -> Option<()> {
    thrift.fields(&mut |thrift, number, kind| {
        match (number, kind) {
            (1, 5) => header.values = thrift.int32()?,
            (2, 5) if !second => header.encoding = thrift.int32()?,
            (4, 5) if second => header.encoding = thrift.int32()?,
            (5 | 6, 5) if second => header.levels = header.levels.checked_add(thrift.int32()?)?,
            (7, 1 | 2) if second => header.stored = kind == 2,
            (1, _) | (2, _) if !second => return None,
            (1 | 4..=7, _) if second => return None,
            _ => thrift.skip(kind, DEPTH)?,
        }
        Some(())
    })
}

/// Whether the metadata of a file have a schema of at most `most` groups inside one another, and are whole.
pub(super) fn schema_depth(text: &[u8], most: usize) -> Option<bool> {
    let mut thrift = Thrift { rest: text };
    let mut shallow = true;
    thrift.fields(&mut |thrift, number, kind| {
        if number != 2 {
            return thrift.skip(kind, DEPTH);
        }
        if kind != LIST {
            return None;
        }
        let (count, kind) = thrift.list()?;
        // The children that are left of the groups around the next element.
        let mut open: Vec<i64> = Vec::new();
        for _ in 0..count {
            if kind != STRUCT {
                return None;
            }
            let mut children = 0;
            thrift.fields(&mut |thrift, number, kind| match (number, kind) {
                (5, 5) => {
                    children = thrift.int32()?;
                    Some(())
                }
                // The library reads it whatever its type.
                (5, _) => None,
                _ => thrift.skip(kind, DEPTH),
            })?;
            // It makes room for as many as are claimed.
            if children > i64::try_from(count).ok()? {
                return None;
            }
            if let Some(last) = open.last_mut() {
                *last -= 1;
            }
            if children > 0 {
                open.push(children);
            }
            shallow &= open.len() <= most;
            while open.pop_if(|left| *left <= 0).is_some() {}
            if !shallow {
                open.truncate(most);
            }
        }
        Some(())
    })?;
    Some(shallow)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data page of 3 values: type 0, 300 bytes unpacked, 40 packed, `{3, PLAIN, RLE, RLE}`.
    const PAGE: [u8; 19] =
        [0x15, 0, 0x15, 0xD8, 4, 0x15, 80, 0x2C, 0x15, 6, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0, 0xFF];

    #[test]
    fn a_header_is_read_to_its_end() {
        let header = page_header(&PAGE).unwrap();
        assert_eq!((header.length, header.unpacked, header.packed, header.values), (18, 300, 40, 3));
        for cut in 0..18 {
            assert!(page_header(&PAGE[..cut]).is_none(), "{cut}");
        }
    }

    #[test]
    fn a_header_that_could_be_read_in_two_ways_is_refused() {
        // A dictionary with the structure of a data page of version 2 behind its own; a field that comes twice; a field
        // number that is cut to 16 bits; a number of values of 64 bits.
        let two = [0x15, 4, 0x15, 8, 0x15, 8, 0x4C, 0x15, 2, 0x15, 0, 0, 0x1C, 0x15, 6, 0, 0];
        assert!(page_header(&two).is_none());
        let wrong_kind = [0x15, 4, 0x15, 8, 0x15, 8, 0x2C, 0x15, 2, 0x15, 0, 0, 0];
        assert!(page_header(&wrong_kind).is_none());
        let twice = [0x15, 0, 0x15, 8, 0x15, 8, 0x2C, 0x15, 6, 0x05, 2, 8, 0, 0];
        assert!(page_header(&twice).is_none());
        let wrapped = [0x15, 0, 0x15, 8, 0x15, 8, 0x2C, 0x15, 6, 0x05, 0x82, 0x80, 0x08, 8, 0, 0];
        assert!(page_header(&wrapped).is_none());
        let wide = [0x15, 0, 0x15, 8, 0x15, 8, 0x2C, 0x15, 0x80, 0x80, 0x80, 0x80, 0x20, 0x15, 0, 0, 0];
        assert!(page_header(&wide).is_none());
        // Children of another type, and more of them than there are elements.
        assert!(schema_depth(&[0x29, 0x2C, 0x56, 2, 0, 0x55, 2, 0, 0], 8).is_none());
        assert!(schema_depth(&[0x29, 0x2C, 0x55, 8, 0, 0x55, 0, 0, 0], 8).is_none());
    }

    #[test]
    fn lists_and_depths_are_bounded() {
        // A list of 2^35 structures, and structures inside one another.
        assert!(page_header(&[0x19, 0xFC, 0x80, 0x80, 0x80, 0x80, 0x80, 1, 0]).is_none());
        assert!(page_header(&[0x9C; 10_000]).is_none());
        // Field 2: schema elements with one child each.
        let element = [0x55, 2, 0];
        let metadata = |count: u8| [&[0x29, 0xFC, count][..], &element.repeat(count.into()), &[0]].concat();
        assert_eq!(schema_depth(&metadata(8), 8), Some(true));
        assert_eq!(schema_depth(&metadata(9), 8), Some(false));
        assert_eq!(schema_depth(&metadata(9)[..20], 8), None);
    }
}
