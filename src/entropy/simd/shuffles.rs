//! Which of the next bytes of a stream goes to which lane: a table for what no instruction of AVX2
//! or NEON does.

/// For each set of eight lanes that take a byte (a bit for each): for each lane the place of its
/// byte, or 0x80 for none.
pub(super) static BYTE_SHUFFLES: [[u8; 8]; 256] = {
    let mut places = [[0x80_u8; 8]; 256];
    let mut set = 0;
    while set < 256 {
        let (mut lane, mut next) = (0, 0);
        while lane < 8 {
            if set >> lane & 1 == 1 {
                places[set][lane] = next;
                next += 1;
            }
            lane += 1;
        }
        set += 1;
    }
    places
};
