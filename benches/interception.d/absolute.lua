-- wrk as a client of a forward proxy: the request line has the whole URL (RFC 9112, section 3.2.2).
wrk.path = "http://stock.shop:8080/orders/17"
wrk.headers["Host"] = "stock.shop:8080"
