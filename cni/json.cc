// Boost.JSON's code: Debian has it as headers, and this program takes none of the other folders'.
#include <boost/json/src.hpp>
