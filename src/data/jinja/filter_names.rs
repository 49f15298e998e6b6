//! The names of filters.

const NAMES: &str = "abs attr batch capitalize center count d default dictsort e escape filesizeformat first float forceescape \
    format groupby indent int items join last length list lower map max min reject rejectattr replace reverse round safe \
    select selectattr slice sort string striptags sum title tojson trim truncate unique upper urlencode wordcount wordwrap \
    xmlattr";

/// jinja2 filters that are rejected because they are random, or format for the web or a terminal.
const REFUSED: &str = "random pprint urlize";

/// Whether the filter is one of the rejected ones.
pub(super) fn refused(name: &str) -> bool {
    REFUSED.split(' ').any(|known| known == name)
}

/// Whether jinja2 has a filter of this name.
pub(super) fn exists(name: &str) -> bool {
    NAMES.split(' ').any(|known| known == name) || refused(name)
}
