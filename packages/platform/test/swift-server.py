# OpenStack Swift with its S3 interface in one process, for tests: account, container, object and proxy server on free
# ports of the loopback interface, one device in the folder given, which must be on a disk with extended attributes.
# Prints the port of the proxy and serves until its standard input ends, so that no killed test leaves it behind.
import eventlet

eventlet.monkey_patch()

import json
import os
import sys

folder, access_key, secret_key = sys.argv[1:4]
os.makedirs(os.path.join(folder, 'devices', 'd1', 'tmp'))
try:
    os.setxattr(folder, b'user.swift.test', b'1')
except OSError as error:
    sys.exit(f'Swift needs a disk with extended attributes, which {folder} is not on; set TMPDIR ({error})')
with open(os.path.join(folder, 'swift.conf'), 'w') as file:
    file.write('[swift-hash]\nswift_hash_path_prefix = test\nswift_hash_path_suffix = test\n')

from swift.common import utils

utils.set_swift_dir(folder)
utils.validate_hash_conf()

from swift.account.server import AccountController
from swift.common.http_protocol import SwiftHttpProtocol
from swift.common.ring import RingBuilder
from swift.common.wsgi import loadapp
from swift.container.server import ContainerController
from swift.obj.server import ObjectController


def serve(listener, app):
    eventlet.spawn(
        eventlet.wsgi.server,
        listener,
        app,
        utils.NullLogger(),
        protocol=SwiftHttpProtocol,
        # "ETag" must reach S3 clients as it is written.
        capitalize_response_headers=False,
    )


conf = {
    'swift_dir': folder,
    'devices': os.path.join(folder, 'devices'),
    'mount_check': 'false',
    'bind_ip': '127.0.0.1',
    'log_level': 'ERROR',
}
listeners = {}
for kind in ('account', 'container', 'object'):
    listeners[kind] = eventlet.listen(('127.0.0.1', 0))
    port = listeners[kind].getsockname()[1]
    builder = RingBuilder(2, 1, 1)
    builder.add_dev(
        {'id': 0, 'region': 1, 'zone': 1, 'weight': 1, 'ip': '127.0.0.1', 'port': port, 'device': 'd1', 'meta': ''}
    )
    builder.rebalance()
    builder.get_ring().save(os.path.join(folder, kind + '.ring.gz'))
serve(listeners['account'], AccountController(conf))
serve(listeners['container'], ContainerController(conf))
serve(listeners['object'], ObjectController(conf))

# The access key is "account:user" to tempauth.
account, user = access_key.split(':')
proxy_conf = os.path.join(folder, 'proxy.conf')
with open(proxy_conf, 'w') as file:
    file.write(
        f'''[DEFAULT]
swift_dir = {folder}
log_level = ERROR
[pipeline:main]
pipeline = catch_errors s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:s3api]
use = egg:swift#s3api
# So that short lists have pages.
max_bucket_listing = 10
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{user} = {secret_key} .admin
'''
    )


class NoCache:
    """Stands in for memcached, which tempauth asks for and nothing here needs."""

    def get(self, *args, **kwargs):
        return None

    def set(self, *args, **kwargs):
        pass

    delete = incr = decr = get_multi = set_multi = set


app = loadapp(proxy_conf)


def with_cache(env, start_response):
    env['swift.cache'] = NoCache()
    return app(env, start_response)


proxy = eventlet.listen(('127.0.0.1', 0))
serve(proxy, with_cache)
print(json.dumps({'port': proxy.getsockname()[1]}), flush=True)
eventlet.hubs.trampoline(sys.stdin, read=True)
